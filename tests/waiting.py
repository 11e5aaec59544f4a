"""Waiting for a condition with a deadline: the only way a test lets time pass."""

import time
from collections.abc import Callable
from typing import TypeVar

from sluice.stack.patience import patient

T = TypeVar("T")

POLL_SECONDS = 0.02
# A passing test never waits until its deadline, and any machine may pause for some seconds.
LEAST_SECONDS = 30.0

WAITING_BACKENDS = """
    SELECT pid FROM pg_locks AS waiting WHERE NOT granted AND EXISTS (
        SELECT FROM pg_locks AS own JOIN pg_database ON pg_database.oid = own.database
        WHERE own.pid = waiting.pid AND datname = current_database())
"""
"""The backends of this database that wait for a lock: other tests use the same server."""

ADVISORY_LOCKS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND datname = current_database()
"""
"""How many advisory locks are held or waited for in this database."""


def wait_until(
    condition: Callable[[], T], *, timeout_seconds: float, what: str, poll_seconds: float = POLL_SECONDS
) -> T:
    """The condition's first true value. Fails the test after the deadline, naming what was waited for.

    The deadline is for an idle machine and moves with the load of this one.
    """
    began = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() - began > patient(max(timeout_seconds, LEAST_SECONDS)):
            raise AssertionError(f"not within {timeout_seconds} s: {what} (last value: {value!r})")
        time.sleep(poll_seconds)
