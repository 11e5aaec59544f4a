"""Repeats a transaction after failures, as long as its caller's policy allows it."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from sluice.db.connection import Session
from sluice.db.errors import needs_new_connection

log = structlog.get_logger("sluice.retry")

T = TypeVar("T")

PauseAfter = Callable[[Exception, float, float], float | None]
"""(error, elapsed seconds, jitter) → pause in seconds before the next attempt, or None."""


def retry(
    session: Session,
    attempt: Callable[[], T],
    pause_after: PauseAfter,
    *,
    what: str,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
    draw_jitter: Callable[[], float] = random.random,
) -> T:
    """Returns what `attempt` returns. Raises its error if `pause_after` allows no further attempt.

    `attempt` must be idempotent: if the answer to a COMMIT is lost, it runs again although it may have taken
    effect. `what` names the work in the log.
    """
    started = clock()
    while True:
        try:
            return attempt()
        except Exception as error:
            if needs_new_connection(error):
                # The session's state is unknown: open transactions, locks and prepared plans may be lost.
                session.close()
            pause_seconds = pause_after(error, clock() - started, draw_jitter())
            if pause_seconds is None:
                raise
            log.info(
                "transaction retried",
                what=what,
                error=error,
                pause_seconds=round(pause_seconds, 3),
            )
            sleep(pause_seconds)
