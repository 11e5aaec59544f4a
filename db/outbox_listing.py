"""What waits in the outbox and what the broker refused, for an operator to look at."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from db.session import Session, Statement

# A look at a table that nobody sends from may take longer than a worker's statement.
LOOKING = "SET LOCAL statement_timeout = '60s'"


class QueueWaiting(NamedTuple):
    """A queue with rows that are not sent: how many, how many of them are refused, age of the oldest."""

    queue: str
    waiting: int
    refused: int
    oldest_seconds: float


class RefusedRecord(NamedTuple):
    """A record that the broker refuses; `behind` rows of its queue, topic and key wait for it."""

    queue: str
    id: int
    topic: str
    key: str | None
    error: str
    refused_at: datetime
    refused_seconds: float
    behind: int


class OutgoingEvent(NamedTuple):
    """One row of the outbox. `error` is None unless it is refused; `held_by` is a refused id it waits for."""

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
    """Queues with rows that are not sent yet; of one topic or of all."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [QueueWaiting(*row) for row in session.run(READ_WAITING, topic)]


READ_REFUSED = Statement(
    "read_refused",
    """
    WITH refused AS (
        SELECT queue, id, topic, key, error, refused_at FROM sluice.outbox_refusals
        WHERE $1 IS NULL OR topic = $1 ORDER BY queue, id LIMIT $2
    ), held AS (
        -- One walk over the outbox for all of them.
        SELECT o.queue, o.topic, o.key, count(*) AS behind
        FROM sluice.outbox_events o
        WHERE (o.queue, o.topic, o.key) IN (SELECT queue, topic, key FROM refused)
          AND NOT EXISTS (SELECT FROM sluice.outbox_refusals r WHERE r.queue = o.queue AND r.id = o.id)
        GROUP BY o.queue, o.topic, o.key
    )
    SELECT f.queue, f.id, f.topic, f.key, f.error, f.refused_at,
           extract(epoch FROM now() - f.refused_at)::float8, coalesce(h.behind, 0)
    FROM refused f LEFT JOIN held h ON h.queue = f.queue AND h.topic = f.topic AND h.key = f.key
    ORDER BY f.queue, f.id
    """,
    ("text", "int"),
)


def read_refused(session: Session, topic: str | None, *, limit: int) -> list[RefusedRecord]:
    """Records that the broker refuses, by queue and id; of one topic or of all."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [RefusedRecord(*row) for row in session.run(READ_REFUSED, topic, limit)]


READ_OUTGOING_EVENT = Statement(
    "read_outgoing_event",
    """
    SELECT o.queue, o.id, o.event_id, o.topic, o.key, o.type, o.version, o.headers, o.payload, o.created_at,
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
    """One row whole; None: it was sent, or was never there."""
    rows = session.run(READ_OUTGOING_EVENT, queue, number)
    return OutgoingEvent(*rows[0]) if rows else None
