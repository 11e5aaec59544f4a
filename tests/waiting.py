"""Waiting for a condition with a deadline: the only way a test lets time pass."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02


def wait_until(
    condition: Callable[[], T], *, timeout_seconds: float, what: str, poll_seconds: float = POLL_SECONDS
) -> T:
    """The condition's first true value. Fails the test after the deadline, naming what was waited for."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_seconds} s: {what} (last value: {value!r})")
        time.sleep(poll_seconds)
