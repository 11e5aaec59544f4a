"""What the figures must reach, as ratios within one run where that is possible. Pure."""

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

# The contenders written by hand have two processes as well.
TWO_WORKERS = (SLUICE_2.name, SLUICE_2_KAFKA_PYTHON.name)
REBUILD_LIVE_P99_MS = 1_000  # live lag stays bounded, beside two rebuild workers on the same cores
MEMORY_MARGIN = 1.5  # Python's objects beside the raw bytes that a bridge counts


@dataclass(frozen=True)
class Floor:
    """One promise about speed: what was measured beside what is wanted."""

    what: str
    wanted: str
    measured: str
    met: bool


def drain_floors(drains: Sequence[Drain]) -> Iterator[Floor]:
    """Against the naive way and against the same fold without Celery, and a smoke alarm."""
    for name in TWO_WORKERS:
        rates = [drain.per_second for drain in drains if drain.contender == name]
        if not rates:
            continue
        yield from _ratio_floor(drains, name, NAIVE.name, 15)
        yield from _ratio_floor(drains, name, FOLD.name, 0.65)
        yield at_least(f"{name}: events/s (smoke alarm)", 12_000, median(rates))


def scaling_floors(drains: Sequence[Drain]) -> Iterator[Floor]:
    """What a second worker brings on two cores."""
    yield from _ratio_floor(drains, SLUICE_2.name, SLUICE_1.name, 1.5)


def _ratio_floor(drains: Sequence[Drain], name: str, base: str, floor: float) -> Iterator[Floor]:
    ratios = turn_ratios(drains, name, base)
    if ratios:
        yield at_least(f"{name} ÷ {base}", floor, median(ratios))


def turn_ratios(drains: Iterable[Drain], name: str, base: str) -> list[float]:
    """Speed of one contender over that of another, round by round: what slows a round slows both."""
    rates = {(drain.contender, drain.turn): drain.per_second for drain in drains}
    return [
        rate / rates[base, turn]
        for (contender, turn), rate in sorted(rates.items())
        if contender == name and (base, turn) in rates
    ]


def latency_floors(latencies: Iterable[Latency]) -> Iterator[Floor]:
    """Scheduled send to commit, of Sluice with either client."""
    wanted = {1_000: (80, 150), 5_000: (120, 400)}
    for one in latencies:
        if one.contender in TWO_WORKERS:
            p50, p99 = wanted[one.rate]
            yield at_most(f"{one.contender}: p50 at {one.rate:,}/s, ms", p50, one.p50_ms)
            yield at_most(f"{one.contender}: p99 at {one.rate:,}/s, ms", p99, one.p99_ms)


FAULT_FLOORS = {
    ("Redis wiped", "longest gap, s"): 1.0,
    ("kill -9 of a worker", "longest gap of its queues, s"): 3.0,
    ("SIGTERM to a worker", "until it has ended, s"): 2.0,
    ("SIGTERM to a worker", "longest gap of its queues, s"): 3.0,
    ("kill -9 of the bridge", "from kill to its first commit, s"): 5.0,
    ("kill -9 of the bridge", "rows that went back"): 0.0,
    ("a poison event", "longest wait of a neighbour, s"): 2.0,
}


def relay_drain_floors(drains: Sequence[Drain]) -> Iterator[Floor]:
    """From the log to the log: beside the same fold written by hand, with the same relay."""
    for name in (SLUICE_2_RELAYED.name, SLUICE_2_KAFKA_PYTHON_RELAYED.name):
        yield from _ratio_floor(drains, name, FOLD_RELAYED.name, 0.6)


def visible_floors(latencies: Iterable[VisibleLatency]) -> Iterator[Floor]:
    """Commit to record, and event to record."""
    wanted = {1_000: (80, 150), 5_000: (120, 400)}
    for one in latencies:
        p50, p99 = wanted[one.rate]
        where = f"{one.contender} at {one.rate:,}/s"
        yield at_most(f"{where}: commit to Kafka p50, ms", 20, one.commit_p50_ms)
        yield at_most(f"{where}: event to Kafka p50, ms", p50, one.event_p50_ms)
        yield at_most(f"{where}: event to Kafka p99, ms", p99, one.event_p99_ms)


def rate_floors(rates: Sequence[RelayRate]) -> Iterator[Floor]:
    """CPU of the relay's process."""
    yield at_most("relay: µs of CPU per record", 14, median(r.cpu_us for r in rates if r.who == "relay"))


def rebuild_floors(rebuilt: Rebuilt) -> Iterator[Floor]:
    """Beside the live drain of the same log in the same run."""
    yield at_least("rebuild ÷ live drain", 1.5, rebuilt.rebuild_per_second / rebuilt.drain_per_second)
    what = "live p99 at 1,000/s while a generation is rebuilt, ms"
    yield at_most(what, REBUILD_LIVE_P99_MS, rebuilt.loaded_p99_ms)


def fault_floors(faults: Iterable[Fault]) -> Iterator[Floor]:
    """How long nothing flows; a fault that was not measured is not met."""
    found = {(fault.name, what): value for fault in faults for what, value in fault.figures.items()}
    for place, most in FAULT_FLOORS.items():
        yield at_most(": ".join(place), most, found.get(place, float("nan")))


def cost_floors(costs: Sequence[PostgresCost]) -> Iterator[Floor]:
    """Postgres' CPU per event, and that larger batches are not dearer."""
    by_size = {
        size: median(cost.postgres_us for cost in costs if cost.batch_events == size)
        for size in sorted({cost.batch_events for cost in costs})
    }
    for size, cost in by_size.items():
        yield at_most(f"Postgres: µs per event, batches of {size}", 55, cost)
    small, *_, large = by_size
    yield at_most(f"Postgres: cost at {large} ÷ cost at {small}", 1.05, by_size[large] / by_size[small])


def memory_floors(memory: Memory, budget_mib: int) -> Iterator[Floor]:
    """The bridge holds its budget and no more; the worker does not grow while it drains."""
    held = memory.bridge_peak - memory.bridge_at_start
    yield at_most("bridge: MiB over its start, a million events waiting", budget_mib * MEMORY_MARGIN, held)
    yield at_most(
        "worker: peak after all ÷ peak after a fifth", 1.25, memory.worker_peak / memory.worker_peak_early
    )


def world_floors(speed: WorldSpeed) -> Iterator[Floor]:
    """A test of handlers is a matter of milliseconds."""
    yield at_most(f"world: ms for {speed.sends:,} sends", 1_000, speed.sends_ms)


def at_least(what: str, floor: float, measured: float) -> Floor:
    """Met if the figure is not below."""
    return Floor(what, f"≥ {floor:,g}", f"{measured:,.2f}", measured >= floor)


def at_most(what: str, ceiling: float, measured: float) -> Floor:
    """Met if the figure is not above."""
    return Floor(what, f"≤ {ceiling:,g}", f"{measured:,.2f}", measured <= ceiling)
