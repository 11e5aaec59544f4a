"""Formats the figures as tables for a terminal."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from rich.table import Table

from bench.contenders import HANDWRITTEN, NAIVE, SLUICE_1
from bench.drain import Drain, Missing
from bench.faults import Fault
from bench.figures import spread
from bench.floors import Floor, cost_ratios, own_cpu_us, per_second, turn_ratios
from bench.idle import Idle
from bench.latency import Latency
from bench.memory import Memory
from bench.postgres_cost import BASE, CASES, PostgresCost
from bench.rebuilding import Rebuilt
from bench.relaying import RelayRate, VisibleLatency
from bench.snapshot import RATE, Window
from bench.survival import Survival
from bench.world_speed import ORDERED_EVENTS, WorldSpeed


def drain_table(
    title: str, drains: Sequence[Drain], base: str = HANDWRITTEN.name, missing: Iterable[Missing] = ()
) -> Table:
    """Returns the table of events per second, ratios per round, and the guarantee of each contender."""
    table = _table(
        title, "contender", "events", "events/s min", "median", "max",
        "÷ naive", f"÷ {base}", "events per commit", "verified", "guarantee",
    )  # fmt: skip
    for name, found in _by_contender(drains).items():
        rates = spread([drain.per_second for drain in found])
        table.add_row(
            name,
            f"{found[0].events:,}",
            *(f"{rate:,.0f}" for rate in (rates.least, rates.middle, rates.most)),
            _median_ratio(drains, name, NAIVE.name),
            _median_ratio(drains, name, base),
            ", ".join(f"{size:,.0f}" for size in _commit_sizes(found)),
            "yes" if not any(drain.complaints for drain in found) else "NO",
            found[0].guarantee,
        )
    for one in missing:
        table.add_row(one.contender, *[""] * 8, f"not available: {one.reason}")
    return table


def stream_table(title: str, drains: Sequence[Drain], base: str = HANDWRITTEN.name) -> Table:
    """Returns the table of speed and CPU by stream and contender, with ratios to `base` per round."""
    table = _table(
        title, "stream", "contender", "events", "events/s min", "median", "max", f"÷ {base}",
        "own CPU per event, µs", "verified",
    )  # fmt: skip
    for stream in dict.fromkeys(drain.stream for drain in drains):
        same = [drain for drain in drains if drain.stream == stream]
        for name, found in _by_contender(same).items():
            rates = spread([drain.per_second for drain in found])
            table.add_row(
                stream,
                name,
                f"{found[0].events:,}",
                *(f"{rate:,.0f}" for rate in (rates.least, rates.middle, rates.most)),
                _median_ratio(same, name, base),
                f"{median(own_cpu_us(drain) for drain in found):.0f}",
                "yes" if not any(drain.complaints for drain in found) else "NO",
            )
    return table


def survival_table(survivals: Iterable[Survival]) -> Table:
    """Returns the table of contenders that do not survive poison events."""
    title = "A mixed log with its poison events, which the drain above omits for these contenders"
    table = _table(title, "contender", "survives", "applied", "of")
    for one in survivals:
        survives = "yes" if one.applied == one.expected else "no"
        table.add_row(one.contender, survives, f"{one.applied:,}", f"{one.expected:,}")
    return table


def scaling_table(drains: Sequence[Drain]) -> Table:
    """Returns the table of events per second by the number of workers, and ratios per round."""
    title = "Drain of an existing log, by number of workers"
    table = _table(title, "contender", "events/s min", "median", "max", "÷ 1 worker", "verified")
    for name, found in _by_contender(drains).items():
        rates = spread([drain.per_second for drain in found])
        table.add_row(
            name,
            *(f"{rate:,.0f}" for rate in (rates.least, rates.middle, rates.most)),
            _median_ratio(drains, name, SLUICE_1.name),
            "yes" if not any(drain.complaints for drain in found) else "NO",
        )
    return table


def cpu_table(drains: Sequence[Drain], base: str = HANDWRITTEN.name) -> Table:
    """Returns the table of CPU microseconds per event by group of processes, the median of the rounds.

    `own` is the sum without Kafka and Redis, with its ratio to that of `base` in the same rounds.
    """
    groups = sorted({group for drain in drains for group in drain.cpu_us})
    table = _table(
        "CPU per event while draining, µs", "contender", *groups, "all", "own", f"own ÷ {base}", "WAL bytes"
    )
    for name, found in _by_contender(drains).items():
        costs = [median(drain.cpu_us.get(group, 0.0) for drain in found) for group in groups]
        table.add_row(
            name,
            *(f"{cost:.0f}" if cost else "" for cost in costs),
            f"{sum(costs):.0f}",
            f"{median(own_cpu_us(drain) for drain in found):.0f}",
            _median_ratio(drains, name, base, own_cpu_us),
            f"{median(drain.wal_bytes for drain in found):,.0f}",
        )
    return table


def latency_table(latencies: Iterable[Latency]) -> Table:
    """Returns the table of times from scheduled send to commit, in milliseconds."""
    table = _table(
        "Scheduled send to commit, open loop, ms",
        "contender", "events/s", "events", "p50", "p99", "max", "load at its start",
    )  # fmt: skip
    for one in latencies:
        figures = (f"{value:.0f}" for value in (one.p50_ms, one.p99_ms, one.most_ms))
        table.add_row(one.contender, f"{one.rate:,}", f"{one.events:,}", *figures, f"{one.load:.1f}")
    return table


def fault_table(faults: Iterable[Fault]) -> Table:
    """Returns the table of the figures of each fault."""
    table = _table("Faults during a drain", "fault", "figure", "value", "verified")
    for fault in faults:
        for what, value in fault.figures.items():
            table.add_row(fault.name, what, f"{value:.2f}", "NO" if fault.complaints else "yes")
    return table


def idle_table(idle: Iterable[Idle]) -> Table:
    """Returns the table of CPU without events, by process."""
    table = _table("CPU without events, % of one core", "contender", "process", "seconds", "%")
    for one in idle:
        table.add_row(one.contender, one.process, f"{one.seconds:.0f}", f"{one.percent:.1f}")
    return table


def snapshot_table(windows: Iterable[Window]) -> Table:
    """Returns the table of cost and delay by the age of an old snapshot."""
    table = _table(
        f"{RATE:,} events/s while another session holds an old snapshot",
        "age of the snapshot, s", "Postgres, µs per event", "p50, ms", "p99, ms",
    )  # fmt: skip
    for one in windows:
        age = f"{one.held_seconds:.0f}" if one.held_seconds else "none"
        table.add_row(age, f"{one.postgres_us:.0f}", f"{one.p50_ms:.0f}", f"{one.p99_ms:.0f}")
    return table


def cost_table(costs: Sequence[PostgresCost]) -> Table:
    """Returns the table of the cost per event in Postgres and the applier, by case."""
    table = _table(
        "Cost per event, µs of CPU",
        "case", "Postgres min", "median", "max", "applier", f"both ÷ {BASE.name}",
    )  # fmt: skip
    for case in CASES:
        found = [cost for cost in costs if cost.case == case.name]
        all_of_it = spread([cost.postgres_us for cost in found])
        figures = (all_of_it.least, all_of_it.middle, all_of_it.most, median(c.applier_us for c in found))
        growth = median(cost_ratios(costs, case.name, BASE.name, lambda one: one.both_us))
        table.add_row(case.name, *(f"{value:.1f}" for value in figures), f"{growth:.2f}")
    return table


def memory_table(memory: Memory) -> Table:
    """Returns the table of resident memory in MiB."""
    table = _table(f"Memory while {memory.waiting_events:,} events wait, MiB", "process", "when", "MiB")
    drained = f"{memory.drained_events:,} drained"
    for process, when, value in (
        ("bridge", "at start", memory.bridge_at_start),
        ("bridge", "peak, no event drained", memory.bridge_peak),
        ("bridge", f"peak, {drained}", memory.bridge_peak_draining),
        ("worker", "peak, a fifth of them drained", memory.worker_peak_early),
        ("worker", f"peak, {drained}", memory.worker_peak),
    ):
        table.add_row(process, when, f"{value:.0f}")
    return table


def world_table(speed: WorldSpeed) -> Table:
    """Returns the table of the wall time of tests in memory."""
    table = _table("Tests of handlers in memory, milliseconds", "what", "ms")
    table.add_row(f"{speed.sends:,} events sent", f"{speed.sends_ms:.0f}")
    table.add_row(f"all orders of {ORDERED_EVENTS} events", f"{speed.orders_ms:.0f}")
    return table


def visible_table(latencies: Iterable[VisibleLatency]) -> Table:
    """Returns the table of times until the record is in Kafka, in milliseconds."""
    table = _table(
        "Time until the record is in Kafka, open loop, ms, median of rounds",
        "contender", "events/s", "events",
        "commit p50", "commit p99", "event p50", "event p99", "load at its start",
    )  # fmt: skip
    for one in latencies:
        figures = (one.commit_p50_ms, one.commit_p99_ms, one.event_p50_ms, one.event_p99_ms)
        row = (one.contender, f"{one.rate:,}", f"{one.events:,}", *(f"{f:.0f}" for f in figures))
        table.add_row(*row, f"{one.load:.1f}")
    return table


def rebuild_table(rebuilt: Rebuilt) -> Table:
    """Returns the table of the rebuild's speeds and the latency of live traffic."""
    table = _table(
        f"Rebuild of a projection, {rebuilt.events:,} events, 2 rebuild workers", "figure", "value"
    )
    ratio = rebuilt.rebuild_per_second / rebuilt.drain_per_second
    for what, figure in (
        ("live drain of the log, events/s", f"{rebuilt.drain_per_second:,.0f}"),
        (
            "rebuild without live traffic, events/s",
            f"{rebuilt.rebuild_per_second:,.0f} ({ratio:.2f} of the drain)",
        ),
        ("rebuild beside 1,000 live events/s, events/s", f"{rebuilt.under_load_per_second:,.0f}"),
        ("live p50/p99 without a rebuild, ms", f"{rebuilt.quiet_p50_ms:.0f}/{rebuilt.quiet_p99_ms:.0f}"),
        (
            "live p50/p99/max during the rebuild, ms",
            f"{rebuilt.loaded_p50_ms:.0f}/{rebuilt.loaded_p99_ms:.0f}/{rebuilt.loaded_most_ms:.0f}",
        ),
        ("new generations compared with the live generation", "; ".join(rebuilt.complaints) or "equal"),
    ):
        table.add_row(what, figure)
    return table


def rate_table(rates: Sequence[RelayRate]) -> Table:
    """Returns the table of the speed of one sending process."""
    table = _table(
        "Sending records, one process", "sender", "records/s min", "median", "max", "µs CPU per record"
    )
    for who in dict.fromkeys(rate.who for rate in rates):
        found = [rate for rate in rates if rate.who == who]
        speeds = spread([rate.per_second for rate in found])
        speed_texts = (f"{speed:,.0f}" for speed in (speeds.least, speeds.middle, speeds.most))
        table.add_row(who, *speed_texts, f"{median(rate.cpu_us for rate in found):.1f}")
    return table


def floor_table(floors: Iterable[Floor]) -> Table:
    """Returns the table of required and measured figures."""
    table = _table("Floors", "figure", "required", "measured", "met")
    for floor in floors:
        missed = "not yet" if floor.is_target else "[red]NO[/red]"
        wanted = f"{floor.wanted} (target)" if floor.is_target else floor.wanted
        table.add_row(floor.what, wanted, floor.measured, "yes" if floor.met else missed)
    return table


def _commit_sizes(drains: Iterable[Drain]) -> list[float]:
    """Returns the median number of events per commit, if it is known."""
    sizes = [drain.events / drain.commits for drain in drains if drain.commits]
    return [median(sizes)] if sizes else []


def _by_contender(drains: Iterable[Drain]) -> dict[str, list[Drain]]:
    found: defaultdict[str, list[Drain]] = defaultdict(list)
    for drain in drains:
        found[drain.contender].append(drain)
    return found


def _median_ratio(
    drains: Sequence[Drain], name: str, base: str, figure: Callable[[Drain], float] = per_second
) -> str:
    ratios = turn_ratios(drains, name, base, figure)
    return f"{median(ratios):.2f}" if ratios else ""


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
