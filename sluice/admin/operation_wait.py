"""Retries an operation that live traffic prevents temporarily, because a lane is behind or a queue
is locked.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from psycopg2.errors import DeadlockDetected, LockNotAvailable, QueryCanceled

from sluice.admin.decisions import OperationRefused

T = TypeVar("T")
RETRY_SECONDS = 0.2
REPORT_SECONDS = 2.0


class NotYet(Exception):
    """The operation is not possible now, but may be possible soon. It changed nothing. `advice`
    names what to check if this takes long.
    """

    def __init__(self, reason: str, advice: str) -> None:
        self.advice = advice
        super().__init__(reason)


def until_possible(
    attempt: Callable[[], T],
    patience_seconds: float,
    *,
    waiting: Callable[[str], object] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Calls `attempt` until the call no longer raises NotYet, and returns the result.

    Passes the reason to `waiting` every REPORT_SECONDS. Raises OperationRefused after `patience_seconds`.
    """
    until, reported_at = clock() + patience_seconds, float("-inf")
    while True:
        try:
            return attempt()
        except NotYet as why:
            now = clock()
            if now >= until:
                raise OperationRefused(
                    f"after {patience_seconds:.0f} s {why}: nothing was changed. {why.advice}"
                ) from why
            if now - reported_at >= REPORT_SECONDS:
                reported_at = now
                waiting(str(why))
            sleep(RETRY_SECONDS)


@contextmanager
def refused_if_queues_are_held(entity: str) -> Iterator[None]:
    """Raises OperationRefused if a batch holds the lock of a queue of the entity type for too long."""
    try:
        yield
    except (LockNotAvailable, QueryCanceled, DeadlockDetected) as error:
        raise OperationRefused(
            "a lock that this command needs was not released in time (usually the lock of a queue of"
            f" {entity}): nothing was changed; run the command again"
        ) from error
