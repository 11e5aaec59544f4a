"""The relay's statements on `outbox_events`: find and lock queues, read rows, delete sent rows.

All existing rows are unsent, because sent rows are deleted. The ids of a queue are drawn under its lock, so
they are committed in order: when an id is visible, no smaller id can appear later. Therefore `sent_through`
only increases: all rows of the queue up to this id are sent.
"""

from collections.abc import Iterable, Mapping, Sequence

from sluice.db.advisory_locks import LockPurpose, lock_text
from sluice.db.connection import Session, Statement
from sluice.db.records import WaitingRow
from sluice.db.values import bare_array, text_array

# Queues of events from users' own transactions have no row in `queues`. Their first event adds a row in
# `relay_progress`.
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
    """Returns queue → `sent_through`, the id behind which the relay begins to read.

    The stored id may be too low.
    """
    return dict(session.run(READ_SENT_THROUGH))


LOCK_WAITING = Statement(
    "lock_waiting",
    f"""
    -- Materialized: whatever the plan is, the lock is tried only for these queues.
    WITH waiting AS MATERIALIZED (
        SELECT d.queue
        FROM unnest($1, $2) AS d (queue, sent_through)
        -- LIMIT instead of EXISTS, because EXISTS becomes a join. If the table had only dead rows at
        -- the last ANALYZE, the planner would then read all rows of the table first.
        CROSS JOIN LATERAL (
            SELECT FROM sluice.outbox_events o WHERE o.queue = d.queue AND o.id > d.sent_through LIMIT 1
        ) w
    )
    SELECT w.queue FROM waiting w
    WHERE pg_try_advisory_xact_lock(hashtext({lock_text(LockPurpose.RELAY)}), hashtext(w.queue))
    """,
    ("text[]", "bigint[]"),
)
# A separate statement, after the lock and before the page. The locking statement would not see a row that
# another relay has marked as refused meanwhile. The page omits that row, so `sent_through` would become
# higher than its id.
READ_LOWEST_REFUSED = Statement(
    "read_lowest_refused",
    "SELECT queue, min(id) FROM sluice.outbox_refusals WHERE queue = ANY ($1) GROUP BY queue",
    ("text[]",),
)


def lock_waiting(session: Session, sent_through: Mapping[str, int]) -> dict[str, int | None]:
    """Locks those queues with waiting rows that no other relay has locked. Returns queue → lowest refused id.

    The locks are held until the transaction ends.
    """
    found = session.run(LOCK_WAITING, text_array(sent_through), bare_array(sent_through.values()))
    locked = [queue for (queue,) in found]
    refused = dict(session.run(READ_LOWEST_REFUSED, text_array(locked))) if locked else {}
    return {queue: refused.get(queue) for queue in locked}


# A separate statement, after the lock. The snapshot of the locking statement is older than the lock, so rows
# that another relay has sent and deleted meanwhile would be sent again.
READ_PAGE = Statement(
    "read_page",
    """
    -- Materialized: rows of a newer format are searched once per queue, and not once per row.
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
          -- A refused row holds back all rows of its key in its queue. Without a key, it holds back only
          -- itself. If it also held back rows of other queues, `sent_through` could pass these rows.
          AND NOT EXISTS (
              SELECT FROM sluice.outbox_refusals r
              WHERE r.queue = w.queue AND r.topic = w.topic AND r.key = w.key
          )
          AND (w.key IS NOT NULL OR NOT EXISTS (
              SELECT FROM sluice.outbox_refusals r WHERE r.queue = w.queue AND r.id = w.id
          ))
          -- A row of a newer format holds back later rows of its key, until a newer relay has sent it.
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
    """Returns the oldest rows of these queues, at most `limit` rows each, ordered by queue and id.

    Requires the locks of the queues.

    Omits rows of a newer format, and later rows with the same topic and key.
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


# Read after the page, so that it sees all rows of a newer format that the page omits. Therefore
# `sent_through` stays below their ids.
READ_LOWEST_NEWER = Statement(
    "read_lowest_newer",
    """
    SELECT queue, min(id) FROM sluice.outbox_events
    WHERE format > 1 AND format > $2 AND queue = ANY ($1) GROUP BY queue
    """,
    ("text[]", "int"),
)


def read_lowest_newer(session: Session, queues: Iterable[str], newest_format: int) -> dict[str, int]:
    """Returns queue → the lowest id of a row of a newer format. Omits queues without such a row."""
    return dict(session.run(READ_LOWEST_NEWER, text_array(queues), newest_format))


# The lowest and the highest id limit the scan. Without them, a plan that was made when the table was empty
# would read all dead rows that an old snapshot keeps. After ten minutes these were 600,000 rows, which took
# 0.7 s per page.
DELETE_SENT = Statement(
    "delete_sent",
    "DELETE FROM sluice.outbox_events WHERE queue = $1 AND id BETWEEN $3 AND $4 AND id = ANY ($2)",
    ("text", "bigint[]", "bigint", "bigint"),
)


def delete_sent(session: Session, queue: str, ids: Sequence[int]) -> None:
    """Deletes rows that the broker acknowledged. Idempotent. Requires the queue's relay lock."""
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
    """Stores which rows the broker refuses permanently, with the broker's reasons. Idempotent."""
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
    """Stores `sent_through` for relays that start later. Idempotent.

    Requires the relay's locks of the queues. Do not call it for every page: an old snapshot keeps all
    versions of such a row, and each read would scan all versions.
    """
    if sent_through:
        session.run(SAVE_SENT_THROUGH, text_array(sent_through), bare_array(sent_through.values()))
