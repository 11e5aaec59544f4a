"""Decides how many events of a queue go into one transaction after failures of the surroundings. Pure."""

from sluice.db.apply.guard import QueueFailures
from sluice.tasks.apply.chunks import RecordPlace

FAILURES = 5  # after so many failures at one record, each further failure halves the batch
WIDEST = 200  # number of events of a usual message; a higher limit has no effect


def after_failure(before: QueueFailures | None, place: RecordPlace, events: int) -> QueueFailures:
    """Counts a failed transaction of `events` events that began at `place`.

    While a limit is in force, each failure halves the limit, even a failure at another record.
    """
    failures = before.failures + 1 if before is not None and before[:3] == place else 1
    limit = None if before is None else before.batch_limit
    if failures > FAILURES or limit is not None:
        limit = max(1, min(events, limit or events) // 2)
    return QueueFailures(*place, failures, limit)


def after_success(before: QueueFailures) -> QueueFailures | None:
    """Returns the counts after a committed transaction. None if the queue is no longer limited."""
    if before.batch_limit is None or before.batch_limit * 2 > WIDEST:
        return None
    return before._replace(failures=0, batch_limit=before.batch_limit * 2)
