"""What the relay does to `outbox_events`: finds what waits, locks it, reads it, deletes what was sent.

A row that is there is unsent. Ids of a queue are drawn under its lock, so they are committed in their order:
whoever has seen id n will never see a smaller one appear. That is why `sent_through` may only rise.
"""

from collections.abc import Iterable, Mapping, Sequence

from sluice.db.connection import Session, Statement
from sluice.db.records import WaitingRow
from sluice.db.values import bare_array, text_array

# Queues of a user's own transactions have no row in `queues`; they have one here from their first event on.
READ_SENT_THROUGH = Statement(
    "read_sent_through",
    """
    SELECT q.queue, coalesce(r.sent_through, 0)
    FROM (SELECT queue FROM sluice.queues UNION SELECT queue FROM sluice.relay_progress) q
    LEFT JOIN sluice.relay_progress r USING (queue)
    ORDER BY q.queue
    """,
)


def read_sent_through(session: Session) -> dict[str, int]:
    """Every queue, with an id at or below which nothing of it is left: a hint of where to begin."""
    return dict(session.run(READ_SENT_THROUGH))


LOCK_WAITING = Statement(
    "lock_waiting",
    """
    -- Materialized: the lock must be tried for these alone, not for whatever the planner comes by.
    WITH waiting AS MATERIALIZED (
        SELECT d.queue
        FROM unnest($1, $2) AS d (queue, sent_through)
        -- With a LIMIT, not EXISTS: that is a join to the planner, which after an ANALYZE of a table all dead
        -- begins with all its rows.
        CROSS JOIN LATERAL (
            SELECT FROM sluice.outbox_events o WHERE o.queue = d.queue AND o.id > d.sent_through LIMIT 1
        ) w
    )
    SELECT w.queue FROM waiting w
    WHERE pg_try_advisory_xact_lock(hashtext('sluice relay'), hashtext(w.queue))
    """,
    ("text[]", "bigint[]"),
)
# A statement of its own, after the lock and before the page. Read together with the lock it would not show
# what another relay refused in between; the page hides that, and the hint would pass it.
READ_LOWEST_REFUSED = Statement(
    "read_lowest_refused",
    "SELECT queue, min(id) FROM sluice.outbox_refusals WHERE queue = ANY ($1) GROUP BY queue",
    ("text[]",),
)


def lock_waiting(session: Session, sent_through: Mapping[str, int]) -> dict[str, int | None]:
    """Queues in which something waits and that no other relay has, with the lowest id refused there.

    They are this transaction's until it ends.
    """
    found = session.run(LOCK_WAITING, text_array(sent_through), bare_array(sent_through.values()))
    locked = [queue for (queue,) in found]
    refused = dict(session.run(READ_LOWEST_REFUSED, text_array(locked))) if locked else {}
    return {queue: refused.get(queue) for queue in locked}


# A statement of its own, after the lock. Read together with it, the snapshot would be older than the lock:
# what another relay sent and deleted in between would be sent once more.
READ_PAGE = Statement(
    "read_page",
    """
    -- Materialized: whether a queue holds rows of a newer format is looked up once, not for every row.
    WITH d AS MATERIALIZED (
        SELECT d.queue, d.sent_through, EXISTS (
            SELECT FROM sluice.outbox_events n WHERE n.format > 1 AND n.format > $5 AND n.queue = d.queue
        ) AS holds_newer
        FROM unnest($1, $2) AS d (queue, sent_through)
    )
    SELECT o.queue, o.id, o.event_id::text, o.topic, o.key, o.type, o.version, o.headers::text, o.payload,
           o.source
    FROM d
    CROSS JOIN LATERAL (
        SELECT * FROM sluice.outbox_events w
        WHERE w.queue = d.queue AND w.id > d.sent_through AND w.topic <> ALL ($3)
          -- A refused one holds its key; what has no key holds itself alone. In its own queue: in another one
          -- a hidden row may lie below all that is refused there, where the hint would pass it.
          AND NOT EXISTS (
              SELECT FROM sluice.outbox_refusals r
              WHERE r.queue = w.queue AND r.topic = w.topic AND r.key = w.key
          )
          AND (w.key IS NOT NULL OR NOT EXISTS (
              SELECT FROM sluice.outbox_refusals r WHERE r.queue = w.queue AND r.id = w.id
          ))
          -- So does one of a newer format, until a relay that reads it has sent it.
          AND (NOT d.holds_newer OR w.format <= $5 AND NOT EXISTS (
              SELECT FROM sluice.outbox_events n
              WHERE n.format > 1 AND n.format > $5
                AND n.queue = w.queue AND n.topic = w.topic AND n.key = w.key AND n.id < w.id
          ))
        ORDER BY w.id LIMIT $4
    ) o
    ORDER BY o.queue, o.id
    """,
    ("text[]", "bigint[]", "text[]", "int", "int"),
)


def read_page(
    session: Session,
    sent_through: Mapping[str, int],
    *,
    without_topics: Sequence[str],
    limit: int,
    newest_format: int,
) -> list[WaitingRow]:
    """Returns the oldest rows of these queues, at most `limit` of each, by queue and id. Under their locks.

    Rows of a newer format are left out, and with them those behind them of the same topic and key.
    """
    rows = session.run(
        READ_PAGE,
        text_array(sent_through),
        bare_array(sent_through.values()),
        text_array(without_topics),
        limit,
        newest_format,
    )
    return list(map(WaitingRow._make, rows))


# After the page: what the page hid is there already, so no hint can pass it.
READ_LOWEST_NEWER = Statement(
    "read_lowest_newer",
    """
    SELECT queue, min(id) FROM sluice.outbox_events
    WHERE format > 1 AND format > $2 AND queue = ANY ($1) GROUP BY queue
    """,
    ("text[]", "int"),
)


def read_lowest_newer(session: Session, queues: Iterable[str], newest_format: int) -> dict[str, int]:
    """Returns the lowest id of a newer format, of each queue that holds one."""
    return dict(session.run(READ_LOWEST_NEWER, text_array(queues), newest_format))


# With the bounds: planned while the table was empty, the ids alone are looked for among all rows that the
# queue ever had and an old snapshot keeps (600,000 after ten minutes: 0.7 s for each page).
DELETE_SENT = Statement(
    "delete_sent",
    "DELETE FROM sluice.outbox_events WHERE queue = $1 AND id BETWEEN $3 AND $4 AND id = ANY ($2)",
    ("text", "bigint[]", "bigint", "bigint"),
)


def delete_sent(session: Session, queue: str, ids: Sequence[int]) -> None:
    """These were acknowledged by the broker. Under the queue's relay lock; may run twice."""
    session.run(DELETE_SENT, queue, bare_array(ids), min(ids), max(ids))


INSERT_REFUSALS = Statement(
    "insert_refusals",
    """
    INSERT INTO sluice.outbox_refusals (queue, id, topic, key, error)
    SELECT d.queue, d.id, d.topic, d.key, d.error
    FROM unnest($1, $2, $3, $4, $5) AS d (queue, id, topic, key, error)
    ON CONFLICT (queue, id) DO NOTHING
    """,
    ("text[]", "bigint[]", "text[]", "text[]", "text[]"),
)


def insert_refusals(session: Session, refused: Sequence[tuple[WaitingRow, str]]) -> None:
    """Lists rows that the broker refuses for good, with its reasons. May run twice."""
    if refused:
        session.run(
            INSERT_REFUSALS,
            text_array(row.queue for row, _ in refused),
            bare_array(row.id for row, _ in refused),
            text_array(row.topic for row, _ in refused),
            text_array(row.key for row, _ in refused),
            text_array(error for _, error in refused),
        )


SAVE_SENT_THROUGH = Statement(
    "save_sent_through",
    """
    INSERT INTO sluice.relay_progress AS r (queue, sent_through)
    SELECT d.queue, d.sent_through FROM unnest($1, $2) AS d (queue, sent_through) ORDER BY d.queue
    ON CONFLICT (queue) DO UPDATE SET sent_through = excluded.sent_through
    WHERE r.sent_through < excluded.sent_through
    """,
    ("text[]", "bigint[]"),
)


def save_sent_through(session: Session, sent_through: Mapping[str, int]) -> None:
    """Notes hints for relays that start later. Under their locks; may run twice.

    Not with every page: under an old snapshot every version of such a row stays, and every look at it would
    walk over all of them.
    """
    if sent_through:
        session.run(SAVE_SENT_THROUGH, text_array(sent_through), bare_array(sent_through.values()))
