"""The limits for the figures, as ratios within one run where possible. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from bench.contenders import (
    BY_SHARDS,
    FASTSTREAM,
    FOLD,
    FOLD_RELAYED,
    HANDWRITTEN,
    NAIVE,
    OF_500_PARTITIONS,
    SLUICE_1,
    SLUICE_2,
    SLUICE_2_KAFKA_PYTHON,
    SLUICE_2_KAFKA_PYTHON_RELAYED,
    SLUICE_2_RELAYED,
)
from bench.drain import Drain
from bench.faults import Fault
from bench.idle import Idle
from bench.latency import Latency
from bench.memory import Memory
from bench.postgres_cost import BASE, GROWN, SMALL, WRITES, PostgresCost
from bench.quiet import QUIET_LOAD
from bench.rebuilding import Rebuilt
from bench.relaying import RelayRate, VisibleLatency
from bench.snapshot import Window
from bench.world_speed import WorldSpeed

# The contenders with two workers, because the handwritten contenders also have two processes.
TWO_WORKERS = (SLUICE_2.name, SLUICE_2_KAFKA_PYTHON.name)
REBUILD_LIVE_P99_MS = 1_000  # limit of the live latency while two rebuild workers use the same cores
BROKERS = frozenset({"kafka", "redis"})  # the broker serves the same log to all; "by hand" has no Redis
SERVERS = BROKERS | {"postgres"}
MOST_CPU_RATIO = 1.6
MOST_GROWTH = 1.25  # limit of cost and delay under an old snapshot, divided by those before the snapshot
MOST_COST = 1.1  # limit of the cost with more lanes, waiting rows or identities, divided by the normal cost
MEMORY_MARGIN = 1.5  # a bridge counts only the raw bytes of records; Python objects use more memory


@dataclass(frozen=True)
class Floor:
    """One limit for a figure, with the measured value."""

    what: str
    wanted: str
    measured: str
    met: bool
    is_target: bool = False
    """True if the limit is only an aim: missing it is no failure."""


def drain_floors(drains: Sequence[Drain]) -> Iterator[Floor]:
    """Yields limits for the speed, and for the CPU per event, divided by those of other contenders in
    the same rounds.
    """
    yield from _ratio_floor(drains, SLUICE_2.name, HANDWRITTEN.name, 0.55, target=0.7)
    yield from _ratio_floor(drains, SLUICE_2.name, FASTSTREAM.name, 0.37, target=0.47)
    yield from _ratio_floor(drains, SLUICE_2.name, NAIVE.name, 40)
    yield from _ratio_floor(drains, SLUICE_2_KAFKA_PYTHON.name, HANDWRITTEN.name, 0.4)
    for name in TWO_WORKERS:
        yield from _ratio_floor(drains, name, FOLD.name, 0.65)
    if ratios := turn_ratios(drains, SLUICE_2.name, HANDWRITTEN.name, own_cpu_us):
        what = f"{SLUICE_2.name} ÷ {HANDWRITTEN.name}: CPU per event without Kafka and Redis"
        yield at_most(what, MOST_CPU_RATIO, median(ratios))


def mixed_floors(drains: Sequence[Drain]) -> Iterator[Floor]:
    """Yields the limit for the speed on the mixed stream.

    The handwritten contender drains that stream without its poison events.
    """
    yield from _ratio_floor(drains, SLUICE_2.name, HANDWRITTEN.name, 0.45)


def snapshot_floors(windows: Sequence[Window]) -> Iterator[Floor]:
    """Yields limits for the growth of cost and delay from before an old snapshot to its end."""
    before, after = windows[0], windows[-1]
    what = "an old snapshot held"
    cost = after.postgres_us / before.postgres_us
    yield at_most(f"{what}: Postgres' cost per event ÷ before", MOST_GROWTH, cost)
    yield at_most(f"{what}: p50 of the delay ÷ before", MOST_GROWTH, after.p50_ms / before.p50_ms)


def own_cpu_us(drain: Drain) -> float:
    """Returns the CPU microseconds per event of the contender's processes and of Postgres."""
    return sum(spent for group, spent in drain.cpu_us.items() if group not in BROKERS)


def per_second(drain: Drain) -> float:
    """Returns the events per second."""
    return drain.per_second


def scaling_floors(drains: Sequence[Drain]) -> Iterator[Floor]:
    """Yields the limit for the speed of two workers divided by the speed of one worker."""
    yield from _ratio_floor(drains, SLUICE_2.name, SLUICE_1.name, 1.5)


def shard_floors(drains: Sequence[Drain]) -> Iterator[Floor]:
    """Yields the limit for the speed with 256 queues divided by the speed with 16."""
    few, many, _ = BY_SHARDS
    yield from _ratio_floor(drains, many.name, few.name, 0.8)


def idle_floors(idle: Iterable[Idle]) -> Iterator[Floor]:
    """Yields limits for the CPU of each process of Sluice while no event arrives."""
    most = dict.fromkeys((SLUICE_2_RELAYED.name, SLUICE_2_KAFKA_PYTHON.name), 2)
    most |= dict.fromkeys((one.name for one in (*OF_500_PARTITIONS, BY_SHARDS[-1])), 10)
    for one in idle:
        if one.contender in most and one.process not in SERVERS:
            what = f"{one.contender}: {one.process} without events, % of a core"
            yield at_most(what, most[one.contender], one.percent)


def _ratio_floor(
    drains: Sequence[Drain], name: str, base: str, floor: float, *, target: float | None = None
) -> Iterator[Floor]:
    if ratios := turn_ratios(drains, name, base):
        yield at_least(f"{name} ÷ {base}", floor, median(ratios))
        if target is not None:
            yield replace(at_least(f"{name} ÷ {base}", target, median(ratios)), is_target=True)


def turn_ratios(
    drains: Iterable[Drain], name: str, base: str, figure: Callable[[Drain], float] = per_second
) -> list[float]:
    """Returns the ratio of a figure of two contenders for each round. A ratio is used because a slow
    round slows both.
    """
    figures = {(drain.contender, drain.turn): figure(drain) for drain in drains}
    return [
        value / figures[base, turn]
        for (contender, turn), value in sorted(figures.items())
        if contender == name and (base, turn) in figures
    ]


def latency_floors(latencies: Iterable[Latency]) -> Iterator[Floor]:
    """Yields limits for the time from scheduled send to commit, for Sluice with each Kafka client.

    A figure from a busy machine has no limit. Compare it with the figure of the handwritten contender.
    """
    wanted = {1_000: (40, 100), 5_000: (70, 250)}
    for one in latencies:
        if one.contender in TWO_WORKERS and one.load < QUIET_LOAD:
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
    """Yields limits for the times from commit to Kafka, and from event to Kafka, on a quiet machine."""
    wanted = {1_000: (80, 150), 5_000: (100, 350)}
    for one in latencies:
        if one.load >= QUIET_LOAD:
            continue
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
    """Yields limits for the CPU per event, and for its growth from the base case to each other case.

    The cost may grow in proportion to the writes. Other cases must cost hardly more than the base case.
    """
    for case in (SMALL, BASE):
        cost = median(one.postgres_us for one in costs if one.case == case.name)
        yield at_most(f"Postgres: µs per event, {case.name}", 55, cost)
    growth = cost_ratios(costs, BASE.name, SMALL.name, lambda one: one.postgres_us)
    yield at_most(f"Postgres: cost with {BASE.name} ÷ {SMALL.name}", 1.05, median(growth))
    for case, most in [(case, float(case.writes)) for case in WRITES] + [(case, MOST_COST) for case in GROWN]:
        growth = cost_ratios(costs, case.name, BASE.name, lambda one: one.both_us)
        yield at_most(f"cost with {case.name} ÷ {BASE.name}", most, median(growth))


def cost_ratios(
    costs: Iterable[PostgresCost], case: str, base: str, figure: Callable[[PostgresCost], float]
) -> list[float]:
    """Returns the ratio of a figure of two cases for each round."""
    figures = {(one.case, one.turn): figure(one) for one in costs}
    turns = sorted({turn for _, turn in figures})
    return [figures[case, turn] / figures[base, turn] for turn in turns]


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
