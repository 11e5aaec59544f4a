"""The seeds of a simulation: first fixed seeds, then random seeds until the time is used."""

import os
import random
import time
from collections.abc import Iterator

import pytest

# The limit of one test in CPU time, so a busy machine runs as many seeds as an idle machine. The environment
# variable SIMULATION_SECONDS sets a longer time. The message of a failure names the seed.
SECONDS = 2.0
LARGEST = 2**40


def draw_seeds(fixed: range, record: pytest.FixtureRequest) -> Iterator[int]:
    """Yields the fixed seeds, then random seeds until the CPU time is used. Reports the number of seeds."""
    until = time.process_time() + float(os.environ.get("SIMULATION_SECONDS", SECONDS))
    count = 0
    for seed in fixed:
        yield seed
        count += 1
    while time.process_time() < until:
        yield random.randrange(fixed.stop, LARGEST)
        count += 1
    record.node.user_properties.append(("seeds", count))
