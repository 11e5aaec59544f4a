"""Waits for a quiet machine, because a latency means little on a busy one."""

import os
import time
from collections.abc import Callable

QUIET_LOAD = 1.0  # the load average of one minute below which the limits of latencies apply
LOOK_SECONDS = 1.0


def read_load() -> float:
    """Returns the load average of the last minute."""
    return os.getloadavg()[0]


def wait_quiet(most_seconds: float, load: Callable[[], float] = read_load) -> float:
    """Waits until the load average is below QUIET_LOAD, at most this long. Returns the load average."""
    deadline = time.monotonic() + most_seconds
    while (now := load()) >= QUIET_LOAD and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return now
