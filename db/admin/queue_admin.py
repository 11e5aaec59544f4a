"""Queues, for operators: their halts, recent dead events, and the dead events that an operator accepts."""

from datetime import datetime
from typing import NamedTuple

from sluice.db.connection import Session, Statement


class ListedQueue(NamedTuple):
    """One queue. `deaths` is the number of dead events among the last `tried` events."""

    queue: str
    halted_reason: str | None
    halted_at: datetime | None
    tried: int
    deaths: int
    accepted_deaths: int


_LISTED = """queue, halted_reason, halted_at, length(failure_window),
    length(failure_window) - length(replace(failure_window, 'x', '')), accepted_deaths"""

READ_QUEUES = Statement("list_queues", f"SELECT {_LISTED} FROM sluice.queues ORDER BY queue")
LOCK_LISTED_QUEUE = Statement(
    "lock_listed_queue", f"SELECT {_LISTED} FROM sluice.queues WHERE queue = $1 FOR UPDATE", ("text",)
)


def read_queues(session: Session) -> list[ListedQueue]:
    """Returns all queues, by name."""
    return [ListedQueue(*row) for row in session.run(READ_QUEUES)]


def lock_listed_queue(session: Session, queue: str) -> ListedQueue | None:
    """Locks a queue until the transaction ends, and returns the queue. None if no queue has this name."""
    rows = session.run(LOCK_LISTED_QUEUE, queue)
    return ListedQueue(*rows[0]) if rows else None


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
