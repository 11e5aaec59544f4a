"""The limits for the figures, as ratios within one run where possible. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from bench.contenders import (
    FOLD,
    FOLD_RELAYED,
    NAIVE,
    SLUICE_1,
    SLUICE_2,
    SLUICE_2_KAFKA_PYTHON,
    SLUICE_2_KAFKA_PYTHON_RELAYED,
    SLUICE_2_RELAYED,
)
from bench.drain import Drain
from bench.faults import Fault
from bench.latency import Latency
from bench.memory import Memory
from bench.postgres_cost import PostgresCost
from bench.rebuilding import Rebuilt
from bench.relaying import RelayRate, VisibleLatency
from bench.world_speed import WorldSpeed

# The contenders with two workers, because the handwritten contenders also have two processes.
TWO_WORKERS = (SLUICE_2.name, SLUICE_2_KAFKA_PYTHON.name)
REBUILD_LIVE_P99_MS = 1_000  # limit of the live latency while two rebuild workers use the same cores
MEMORY_MARGIN = 1.5  # a bridge counts only the raw bytes of records; Python objects use more memory


@dataclass(frozen=True)
class Floor:
    """One limit for a figure, with the measured value."""

    what: str
    wanted: str
    measured: str
    met: bool


def drain_floors(drains: Sequence[Drain]) -> Iterator[Floor]:
    """Yields limits for the speed: divided by the speed of the naive contender, divided by the
    speed of the same fold without Celery, and as an absolute minimum.
    """
    for name in TWO_WORKERS:
        rates = [drain.per_second for drain in drains if drain.contender == name]
        if not rates:
            continue
        yield from _ratio_floor(drains, name, NAIVE.name, 15)
        yield from _ratio_floor(drains, name, FOLD.name, 0.65)
        yield at_least(f"{name}: events/s (absolute minimum)", 12_000, median(rates))


def scaling_floors(drains: Sequence[Drain]) -> Iterator[Floor]:
    """Yields the limit for the speed of two workers divided by the speed of one worker."""
    yield from _ratio_floor(drains, SLUICE_2.name, SLUICE_1.name, 1.5)


def _ratio_floor(drains: Sequence[Drain], name: str, base: str, floor: float) -> Iterator[Floor]:
    ratios = turn_ratios(drains, name, base)
    if ratios:
        yield at_least(f"{name} ÷ {base}", floor, median(ratios))


def turn_ratios(drains: Iterable[Drain], name: str, base: str) -> list[float]:
    """Returns the ratio of the speeds of two contenders for each round. A ratio is used because a
    slow round slows both.
    """
    rates = {(drain.contender, drain.turn): drain.per_second for drain in drains}
    return [
        rate / rates[base, turn]
        for (contender, turn), rate in sorted(rates.items())
        if contender == name and (base, turn) in rates
    ]


def latency_floors(latencies: Iterable[Latency]) -> Iterator[Floor]:
    """Yields limits for the time from scheduled send to commit, for Sluice with each Kafka client."""
    wanted = {1_000: (80, 150), 5_000: (120, 400)}
    for one in latencies:
        if one.contender in TWO_WORKERS:
            p50, p99 = wanted[one.rate]
            yield at_most(f"{one.contender}: p50 at {one.rate:,}/s, ms", p50, one.p50_ms)
            yield at_most(f"{one.contender}: p99 at {one.rate:,}/s, ms", p99, one.p99_ms)


FAULT_FLOORS = {
    ("Redis wiped", "longest time without a commit, s"): 1.0,
    ("kill -9 of a worker", "longest time without a commit of its queues, s"): 3.0,
    ("SIGTERM to a worker", "time to exit, s"): 2.0,
    ("SIGTERM to a worker", "longest time without a commit of its queues, s"): 3.0,
    ("kill -9 of the bridge", "time from kill to first commit, s"): 5.0,
    ("kill -9 of the bridge", "rows set to an older version"): 0.0,
    ("a poison event", "longest wait of a neighbour, s"): 2.0,
}


def relay_drain_floors(drains: Sequence[Drain]) -> Iterator[Floor]:
    """Yields the limit for the speed from log to log, divided by the speed of the handwritten
    contender with fold and relay.
    """
    for name in (SLUICE_2_RELAYED.name, SLUICE_2_KAFKA_PYTHON_RELAYED.name):
        yield from _ratio_floor(drains, name, FOLD_RELAYED.name, 0.6)


def visible_floors(latencies: Iterable[VisibleLatency]) -> Iterator[Floor]:
    """Yields limits for the times from commit to Kafka, and from event to Kafka."""
    wanted = {1_000: (80, 150), 5_000: (120, 400)}
    for one in latencies:
        p50, p99 = wanted[one.rate]
        where = f"{one.contender} at {one.rate:,}/s"
        yield at_most(f"{where}: commit to Kafka p50, ms", 20, one.commit_p50_ms)
        yield at_most(f"{where}: event to Kafka p50, ms", p50, one.event_p50_ms)
        yield at_most(f"{where}: event to Kafka p99, ms", p99, one.event_p99_ms)


def rate_floors(rates: Sequence[RelayRate]) -> Iterator[Floor]:
    """Yields the limit for the CPU of the relay's process."""
    yield at_most("relay: µs of CPU per record", 14, median(r.cpu_us for r in rates if r.who == "relay"))


def rebuild_floors(rebuilt: Rebuilt) -> Iterator[Floor]:
    """Yields limits for the speed of a rebuild, divided by the speed of the live drain of the same
    log, and for the live latency.
    """
    yield at_least("rebuild ÷ live drain", 1.5, rebuilt.rebuild_per_second / rebuilt.drain_per_second)
    what = "live p99 at 1,000/s while a generation is rebuilt, ms"
    yield at_most(what, REBUILD_LIVE_P99_MS, rebuilt.loaded_p99_ms)


def fault_floors(faults: Iterable[Fault]) -> Iterator[Floor]:
    """Yields limits for the time without commits. A fault that was not measured misses its limit."""
    found = {(fault.name, what): value for fault in faults for what, value in fault.figures.items()}
    for place, most in FAULT_FLOORS.items():
        yield at_most(": ".join(place), most, found.get(place, float("nan")))


def cost_floors(costs: Sequence[PostgresCost]) -> Iterator[Floor]:
    """Yields limits for Postgres' CPU per event, and for the ratio of its values for large and
    small batches.
    """
    by_size = {
        size: median(cost.postgres_us for cost in costs if cost.batch_events == size)
        for size in sorted({cost.batch_events for cost in costs})
    }
    for size, cost in by_size.items():
        yield at_most(f"Postgres: µs per event, batches of {size}", 55, cost)
    small, *_, large = by_size
    yield at_most(f"Postgres: cost at {large} ÷ cost at {small}", 1.05, by_size[large] / by_size[small])


def memory_floors(memory: Memory, budget_mib: int) -> Iterator[Floor]:
    """Yields limits for the memory of the bridge, and for the growth of the worker during the drain."""
    held = memory.bridge_peak - memory.bridge_at_start
    yield at_most("bridge: MiB above its start, a million events waiting", budget_mib * MEMORY_MARGIN, held)
    yield at_most(
        "worker: peak after all events ÷ peak after a fifth",
        1.25,
        memory.worker_peak / memory.worker_peak_early,
    )


def world_floors(speed: WorldSpeed) -> Iterator[Floor]:
    """Yields the limit for the time of sends to a `World`, which is in memory."""
    yield at_most(f"world: ms for {speed.sends:,} sends", 1_000, speed.sends_ms)


def at_least(what: str, floor: float, measured: float) -> Floor:
    """Returns a limit that is met if the figure is at least `floor`."""
    return Floor(what, f"≥ {floor:,g}", f"{measured:,.2f}", measured >= floor)


def at_most(what: str, ceiling: float, measured: float) -> Floor:
    """Returns a limit that is met if the figure is at most `ceiling`."""
    return Floor(what, f"≤ {ceiling:,g}", f"{measured:,.2f}", measured <= ceiling)
