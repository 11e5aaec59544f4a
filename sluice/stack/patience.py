"""Scales the deadlines of the stack and the tests by the speed and load of this machine."""

import os
import time
from functools import cache

# The CPU time of `_work` on the machine for which the unscaled deadlines were chosen.
REFERENCE_SECONDS = 0.007
WORK_ROUNDS = 300_000
MEASUREMENTS = 3
# A machine with a higher factor is broken rather than slow. The limit makes a failure visible within an hour.
LONGEST_FACTOR = 6.0


def patient(seconds: float) -> float:
    """Returns the deadline for work that takes less than `seconds` on an idle machine.

    The deadline is `seconds` times a factor of at least 1. A longer deadline costs time only in a failure.
    """
    return seconds * slowness(cpu_seconds=_cpu_seconds(), load_per_core=_load_per_core())


def slowness(*, cpu_seconds: float, load_per_core: float) -> float:
    """Returns the factor for the deadlines.

    It covers slower cores, and the time that a process waits for a core.
    """
    factor = max(1.0, cpu_seconds / REFERENCE_SECONDS) * max(1.0, load_per_core)
    return min(factor, LONGEST_FACTOR)


@cache
def _cpu_seconds() -> float:
    # CPU time does not include the time of other processes, which the load average covers. The shortest of
    # several measurements counts, because the first ones are slowed down by cold caches and a low clock
    # frequency.
    return min(_work() for _ in range(MEASUREMENTS))


def _work() -> float:
    began = time.process_time()
    total = 0
    for number in range(WORK_ROUNDS):
        total += number & 7
    return time.process_time() - began


def _load_per_core() -> float:
    # Not cached, because the load changes while a process runs.
    return os.getloadavg()[0] / (os.cpu_count() or 1)
