"""The outbox, for operators: reads waiting and refused rows, and retries or drops these rows."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sluice.db.advisory_locks import LockPurpose, lock_text
from sluice.db.connection import Session, Statement

# Long, because to read a long outbox may take longer than the limit of a worker's statement.
LOOKING = "SET LOCAL statement_timeout = '60s'"
BEHIND_NEWEST = 2**63 - 1  # larger than every id


class QueueWaiting(NamedTuple):
    """A queue with unsent rows: the numbers of all and of refused rows, and the age of the oldest row."""

    queue: str
    waiting: int
    refused: int
    oldest_seconds: float


class RefusedRecord(NamedTuple):
    """A record that the broker refuses.

    `behind`: the number of rows with the same key that wait behind it.
    """

    queue: str
    id: int
    topic: str
    key: str | None
    error: str
    refused_at: datetime
    refused_seconds: float
    behind: int


class OutgoingEvent(NamedTuple):
    """One row of the outbox. `error` is set if the row is refused.

    `held_by`: the refused row before it, by id.
    """

    queue: str
    id: int
    event_id: UUID
    topic: str
    key: str | None
    type: str
    version: str | None
    headers: dict[str, Any]
    payload: memoryview
    created_at: datetime
    source: str | None
    error: str | None
    refused_at: datetime | None
    held_by: int | None


READ_WAITING = Statement(
    "read_waiting",
    """
    SELECT o.queue, count(*), count(r.id), extract(epoch FROM now() - min(o.created_at))::float8
    FROM sluice.outbox_events o
    LEFT JOIN sluice.outbox_refusals r ON r.queue = o.queue AND r.id = o.id
    WHERE $1 IS NULL OR o.topic = $1
    GROUP BY o.queue ORDER BY o.queue
    """,
    ("text",),
)


def read_waiting(session: Session, topic: str | None) -> list[QueueWaiting]:
    """Returns the queues with unsent rows of one topic, or of all topics (None)."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [QueueWaiting(*row) for row in session.run(READ_WAITING, topic)]


READ_REFUSED = Statement(
    "read_refused",
    """
    WITH refused AS (
        SELECT queue, id, topic, key, error, refused_at FROM sluice.outbox_refusals
        WHERE $1 IS NULL OR topic = $1 ORDER BY refused_at DESC, queue, id DESC LIMIT $2
    ), held AS (
        -- One scan of the outbox for all queues.
        SELECT o.queue, o.topic, o.key, count(*) AS behind
        FROM sluice.outbox_events o
        WHERE (o.queue, o.topic, o.key) IN (SELECT queue, topic, key FROM refused)
          AND NOT EXISTS (SELECT FROM sluice.outbox_refusals r WHERE r.queue = o.queue AND r.id = o.id)
        GROUP BY o.queue, o.topic, o.key
    )
    SELECT f.queue, f.id, f.topic, f.key, f.error, f.refused_at,
           extract(epoch FROM now() - f.refused_at)::float8, coalesce(h.behind, 0)
    FROM refused f LEFT JOIN held h ON h.queue = f.queue AND h.topic = f.topic AND h.key = f.key
    ORDER BY f.refused_at DESC, f.queue, f.id DESC
    """,
    ("text", "int"),
)


def read_refused(session: Session, topic: str | None, *, limit: int) -> list[RefusedRecord]:
    """Returns records of one topic or of all topics that the broker refuses, newest first."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [RefusedRecord(*row) for row in session.run(READ_REFUSED, topic, limit)]


class RefusalReason(NamedTuple):
    """The number of refused records that share a topic and the broker's reason."""

    records: int
    topic: str
    error: str


COUNT_REFUSAL_REASONS = Statement(
    "count_refusal_reasons",
    """
    SELECT count(*), topic, error FROM sluice.outbox_refusals WHERE $1 IS NULL OR topic = $1
    GROUP BY topic, error HAVING count(*) > 1 ORDER BY count(*) DESC, topic, error LIMIT $2
    """,
    ("text", "int"),
)


def count_refusal_reasons(session: Session, topic: str | None, *, limit: int) -> list[RefusalReason]:
    """Returns the reasons that several refused records share, the most frequent first."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [RefusalReason(*row) for row in session.run(COUNT_REFUSAL_REASONS, topic, limit)]


READ_OUTGOING_EVENT = Statement(
    "read_outgoing_event",
    """
    SELECT o.queue, o.id, o.event_id, o.topic, o.key, o.type, o.version, o.headers, o.payload, o.created_at,
           o.source,
           r.error, r.refused_at,
           (SELECT min(b.id) FROM sluice.outbox_refusals b
            WHERE b.queue = o.queue AND b.topic = o.topic AND b.key = o.key AND b.id <> o.id)
    FROM sluice.outbox_events o
    LEFT JOIN sluice.outbox_refusals r ON r.queue = o.queue AND r.id = o.id
    WHERE o.queue = $1 AND o.id = $2
    """,
    ("text", "bigint"),
)


def read_outgoing_event(session: Session, queue: str, number: int) -> OutgoingEvent | None:
    """Returns one whole row; None if the row was sent or never existed."""
    rows = session.run(READ_OUTGOING_EVENT, queue, number)
    return OutgoingEvent(*rows[0]) if rows else None


# Long enough for a relay, which holds its lock during a flush of at most 5 s.
RELAY_PATIENCE = "SET LOCAL statement_timeout = '8s'; SET LOCAL lock_timeout = '8s'"


class Refusal(NamedTuple):
    """A deleted refusal."""

    queue: str
    id: int
    topic: str
    key: str | None
    error: str


DELETE_REFUSAL = Statement(
    "delete_refusal",
    "DELETE FROM sluice.outbox_refusals WHERE queue = $1 AND id = $2 RETURNING queue, id, topic, key, error",
    ("text", "bigint"),
)


def delete_refusal(session: Session, queue: str, number: int) -> Refusal | None:
    """Allows the relay to send this record again. Returns None if the record was not refused. Idempotent.

    Needs no lock of the relay, because a relay sets `sent_through` below the lowest refused id that it has
    read.
    """
    rows = session.run(DELETE_REFUSAL, queue, number)
    return Refusal(*rows[0]) if rows else None


class RefusedCount(NamedTuple):
    """The number of refused records, and the time of the count."""

    records: int
    until: datetime


COUNT_REFUSED = Statement(
    "count_refused",
    "SELECT count(*), now() FROM sluice.outbox_refusals WHERE $1 IS NULL OR topic = $1",
    ("text",),
)


def count_refused(session: Session, topic: str | None) -> RefusedCount:
    """Counts the refused records of one topic or of all topics."""
    ((records, until),) = session.run(COUNT_REFUSED, topic)
    return RefusedCount(records, until)


# Selects only refusals up to a time. Therefore a record that is refused again meanwhile stays refused.
_REFUSED_PAGE = """
    SELECT queue, id FROM sluice.outbox_refusals
    WHERE ($1 IS NULL OR topic = $1) AND refused_at <= $2 ORDER BY queue, id LIMIT $3
"""
DELETE_REFUSALS = Statement(
    "delete_refusals",
    f"""
    DELETE FROM sluice.outbox_refusals WHERE (queue, id) IN ({_REFUSED_PAGE})
    RETURNING queue, id, topic, key, error
    """,
    ("text", "timestamptz", "int"),
)


def delete_refusals(session: Session, topic: str | None, until: datetime, *, limit: int) -> list[Refusal]:
    """Allows the relay to send again the records that were refused up to `until`.

    Works on one topic, or on all topics (None). The relay sends the records of a key only when none of them
    is refused, so the order is kept even if a key's refusals are deleted in several calls.
    """
    return sorted(Refusal(*row) for row in session.run(DELETE_REFUSALS, topic, until, limit))


READ_REFUSED_PAGE = Statement("read_refused_page", _REFUSED_PAGE, ("text", "timestamptz", "int"))


def read_refused_page(
    session: Session, topic: str | None, until: datetime, *, limit: int
) -> list[tuple[str, int]]:
    """Returns (queue, id) of the records that were refused up to `until`, ordered by queue and id."""
    return [(queue, number) for queue, number in session.run(READ_REFUSED_PAGE, topic, until, limit)]


LOCK_RELAY = Statement(
    "lock_relay",
    f"SELECT pg_advisory_xact_lock(hashtext({lock_text(LockPurpose.RELAY)}), hashtext($1))",
    ("text",),
)


def lock_relay(session: Session, queue: str) -> None:
    """Locks this queue against all relays until the transaction ends.

    Raises LockNotAvailable if a relay holds the queue for longer than a flush may take.
    """
    session.defer(RELAY_PATIENCE)
    session.run(LOCK_RELAY, queue)


# One statement checks and deletes the row, so no other transaction can change the row in between.
DELETE_OUTGOING_EVENT = Statement(
    "delete_outgoing_event",
    """
    WITH refusal AS (
        DELETE FROM sluice.outbox_refusals WHERE queue = $1 AND id = $2 RETURNING id
    )
    DELETE FROM sluice.outbox_events
    WHERE queue = $1 AND id = $2 AND ($3 OR EXISTS (SELECT FROM refusal))
    """,
    ("text", "bigint", "bool"),
)


def delete_outgoing_event(session: Session, queue: str, number: int, *, even_if_waiting: bool) -> bool:
    """Deletes an event and its refusal. The event is never sent. Returns False if no event was deleted.

    An event that is not refused is deleted only with `even_if_waiting`. Requires the relay's lock on the
    queue, which an earlier statement must have taken. Otherwise the event may be in flight to the broker.
    """
    return session.count(DELETE_OUTGOING_EVENT, queue, number, even_if_waiting) == 1
