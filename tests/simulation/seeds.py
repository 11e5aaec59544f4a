"""Which worlds a simulation plays: some that are always the same, then as many others as the time allows."""

import os
import random
import time
from collections.abc import Iterator

import pytest

# CPU time of one test, so that a busy machine plays as many worlds. SIMULATION_SECONDS sets it for a longer
# search; the message of a broken promise names the seed.
SECONDS = 2.0
LARGEST = 2**40


def draw_seeds(fixed: range, record: pytest.FixtureRequest) -> Iterator[int]:
    """Yields the fixed seeds, then random ones until the CPU time is used. Reports how many there were."""
    until = time.process_time() + float(os.environ.get("SIMULATION_SECONDS", SECONDS))
    count = 0
    for seed in fixed:
        yield seed
        count += 1
    while time.process_time() < until:
        yield random.randrange(fixed.stop, LARGEST)
        count += 1
    record.node.user_properties.append(("seeds", count))
