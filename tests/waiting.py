"""Waits for a condition with a deadline. Tests use only this way of waiting."""

import time
from collections.abc import Callable
from typing import TypeVar

from sluice.stack.patience import patient

T = TypeVar("T")

POLL_SECONDS = 0.02
# A long deadline does not slow down a test that passes, and any machine may pause for some seconds.
LEAST_SECONDS = 30.0

WAITING_BACKENDS = """
    SELECT pid FROM pg_locks AS waiting WHERE NOT granted AND EXISTS (
        SELECT FROM pg_locks AS own JOIN pg_database ON pg_database.oid = own.database
        WHERE own.pid = waiting.pid AND datname = current_database())
"""
"""Selects the backends of this database that wait for a lock. Other tests use the same server."""

ADVISORY_LOCKS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND datname = current_database()
"""
"""Counts the advisory locks of this database that a session holds or waits for."""


def wait_until(
    condition: Callable[[], T], *, timeout_seconds: float, what: str, poll_seconds: float = POLL_SECONDS
) -> T:
    """Returns the condition's first true value. After the deadline fails the test with `what` in the message.

    `timeout_seconds` is the deadline on an idle machine. Load on the machine extends the deadline.
    """
    began = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() - began > patient(max(timeout_seconds, LEAST_SECONDS)):
            raise AssertionError(f"not within {timeout_seconds} s: {what} (last value: {value!r})")
        time.sleep(poll_seconds)
