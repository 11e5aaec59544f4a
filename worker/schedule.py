"""The tasks that beat publishes, with their intervals. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from sluice.runtime.celery_options import (
    EXPIRE_CLAIMS_TASK,
    MAINTENANCE_QUEUE,
    PURGE_TASK,
    RELAY_QUEUE,
    RELAY_TASK,
    SELF_CHECK_TASK,
    START_REBUILDS_TASK,
    START_RETRIES_TASK,
)


class Periodic(NamedTuple):
    """A task that beat publishes at an interval."""

    task: str
    queue: str
    seconds: float


SCHEDULE = (
    # The relay's run also handles records whose notification was lost, and calls whose backoff is over.
    Periodic(RELAY_TASK, RELAY_QUEUE, 1.0),
    Periodic(START_REBUILDS_TASK, MAINTENANCE_QUEUE, 1.0),
    # Only for idle queues. In a queue with messages, due events are retried after the next batch.
    Periodic(START_RETRIES_TASK, MAINTENANCE_QUEUE, 1.0),
    Periodic(EXPIRE_CLAIMS_TASK, MAINTENANCE_QUEUE, 5.0),
    Periodic(SELF_CHECK_TASK, MAINTENANCE_QUEUE, 60.0),
    Periodic(PURGE_TASK, MAINTENANCE_QUEUE, 3_600.0),
)


class Timetable:
    """The time when each task is due, by a monotonic clock. A change of the wall clock has no effect.

    All tasks are due at the start. Therefore the hourly tasks run even if no beat ever runs for an hour.
    """

    def __init__(self, schedule: Sequence[Periodic] = SCHEDULE) -> None:
        self._due_at = dict.fromkeys(schedule, float("-inf"))

    def due(self, now: float) -> list[Periodic]:
        """Returns the tasks that are due, in the order of the schedule."""
        return [one for one, due_at in self._due_at.items() if due_at <= now]

    def postpone(self, one: Periodic, until: float) -> None:
        """Makes the task due at this time."""
        self._due_at[one] = until

    def seconds_left(self, now: float) -> float:
        """Returns the seconds until the next task is due, at least 0."""
        return max(0.0, min(self._due_at.values()) - now)
