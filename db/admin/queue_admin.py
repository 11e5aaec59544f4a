"""Queues, for operators: their halts, recent dead events, and the dead events that an operator accepts."""

from datetime import datetime
from typing import NamedTuple

from sluice.db.apply.guard import WRITE_WINDOW, lock_queue
from sluice.db.connection import Session, Statement


class ListedQueue(NamedTuple):
    """One queue. `deaths` is the number of dead events among the last `tried` events."""

    queue: str
    halted_reason: str | None
    halted_at: datetime | None
    tried: int
    deaths: int
    accepted_deaths: int


READ_QUEUES = Statement(
    "list_queues",
    """
    SELECT q.queue, q.halted_reason, q.halted_at, length(w.results),
           length(w.results) - length(replace(w.results, 'x', '')), q.accepted_deaths
    FROM sluice.queues q
    CROSS JOIN LATERAL (
        SELECT coalesce((SELECT f.failure_window FROM sluice.failure_windows f WHERE f.queue = q.queue
                         ORDER BY f.step DESC LIMIT 1), '') AS results
    ) w
    WHERE $1 IS NULL OR q.queue = $1
    ORDER BY q.queue
    """,
    ("text",),
)


def read_queues(session: Session) -> list[ListedQueue]:
    """Returns all queues, by name."""
    return [ListedQueue(*row) for row in session.run(READ_QUEUES, None)]


def lock_listed_queue(session: Session, queue: str) -> ListedQueue | None:
    """Locks a queue until the transaction ends, and returns the queue. None if no queue has this name."""
    lock_queue(session, queue)
    # A separate statement, because the snapshot of the locking statement is older than the lock.
    rows = session.run(READ_QUEUES, queue)
    return ListedQueue(*rows[0]) if rows else None


# The window of the queue itself is for processes of the previous version.
RESUME_QUEUE = Statement(
    "resume_queue",
    """
    UPDATE sluice.queues
    SET halted_reason = NULL, halted_at = NULL, failure_window = '', accepted_deaths = $2
    WHERE queue = $1
    """,
    ("text", "int"),
)


def resume_queue(session: Session, queue: str, accepted_deaths: int) -> None:
    """Clears the halt and the failure window; allows N further dead letters. Requires the queue's lock."""
    session.run(RESUME_QUEUE, queue, accepted_deaths)
    session.run(WRITE_WINDOW, queue, "")
