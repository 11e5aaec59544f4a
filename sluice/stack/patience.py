"""Scales the deadlines of the stack and the tests by the speed and load of this machine."""

import os
import time
from functools import cache

# The CPU time of `_work` on the machine that the unscaled deadlines were chosen on.
REFERENCE_SECONDS = 0.007
WORK_ROUNDS = 300_000
MEASUREMENTS = 3
# Above it a machine is broken rather than slow, and a failure should be reported within the hour.
LONGEST_FACTOR = 6.0


def patient(seconds: float) -> float:
    """Returns the deadline for work that takes less than `seconds` on an idle machine.

    The factor is at least 1. A longer deadline costs nothing unless something fails.
    """
    return seconds * slowness(cpu_seconds=_cpu_seconds(), load_per_core=_load_per_core())


def slowness(*, cpu_seconds: float, load_per_core: float) -> float:
    """Returns the factor, which includes both slower cores and waiting for a core."""
    factor = max(1.0, cpu_seconds / REFERENCE_SECONDS) * max(1.0, load_per_core)
    return min(factor, LONGEST_FACTOR)


@cache
def _cpu_seconds() -> float:
    # CPU time leaves out the time that other processes take, which the load average covers. The shortest
    # of several: caches and clock frequency settle.
    return min(_work() for _ in range(MEASUREMENTS))


def _work() -> float:
    began = time.process_time()
    total = 0
    for number in range(WORK_ROUNDS):
        total += number & 7
    return time.process_time() - began


def _load_per_core() -> float:
    # Read each time, since the load changes while a process runs.
    return os.getloadavg()[0] / (os.cpu_count() or 1)
