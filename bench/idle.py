"""Measures the CPU of each process while no event arrives."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.contenders import (
    BY_SHARDS,
    HANDWRITTEN,
    OF_500_PARTITIONS,
    SLUICE_2_KAFKA_PYTHON,
    SLUICE_2_RELAYED,
    Contender,
)
from bench.ground import Ground

SETTLE_SECONDS = 5.0  # after the start, processes still load modules
CONTENDERS = (SLUICE_2_RELAYED, HANDWRITTEN)
WITH_MANY = (SLUICE_2_KAFKA_PYTHON, *OF_500_PARTITIONS, BY_SHARDS[-1])


@dataclass(frozen=True)
class Idle:
    """The CPU of one process, or of one server, in percent of one core."""

    contender: str
    process: str
    seconds: float
    percent: float


def measure_idle(ground: Ground, contenders: Sequence[Contender], *, seconds: int) -> Iterator[Idle]:
    """Measures the processes of each contender for `seconds`."""
    for contender in contenders:
        with ground.site(contender) as site:
            site.start()
            time.sleep(SETTLE_SECONDS)
            began, before = time.monotonic(), site.process_cpu_seconds()
            time.sleep(seconds)
            after, elapsed = site.process_cpu_seconds(), time.monotonic() - began
        for process, spent in after.items():
            yield Idle(contender.name, process, elapsed, (spent - before[process]) * 100 / elapsed)
