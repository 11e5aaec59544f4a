"""The parts of the bench. Each part measures and returns tables, floors, figures and complaints."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from bench import floors, report
from bench.contenders import (
    BY_SHARDS,
    CONTENDERS,
    FOLD,
    FOLD_RELAYED,
    HANDWRITTEN,
    MIXED_CONTENDERS,
    RELAYED,
    SCALED,
    SLUICE_1,
    SLUICE_2,
    Contender,
)
from bench.drain import Drain, drain_in_turns, split_available
from bench.faults import cause_faults
from bench.floors import Floor
from bench.ground import Ground
from bench.idle import CONTENDERS as IDLE
from bench.idle import WITH_MANY, measure_idle
from bench.latency import measure_latencies
from bench.memory import measure_memory
from bench.options import Options
from bench.postgres_cost import measure_in_turns
from bench.rebuilding import measure_rebuild
from bench.relaying import measure_rates, measure_visible, middle_of_rounds
from bench.scaling_part import CHECKED, check_model, model_complaints, model_table
from bench.snapshot import measure_snapshot
from bench.streams import ALL_NEW, MIXED, SIZES, WRITES, Stream, stream_after
from bench.survival import measure_survival
from bench.world_speed import measure_world
from sluice.runtime.settings import Settings

BRIDGE_BUDGET_MIB = int(Settings.model_fields["bridge_memory_mib"].default)

Say = Callable[[str], None]


@dataclass
class Part:
    """The results of one part."""

    tables: list[Table]
    floors: list[Floor]
    figures: dict[str, Sequence[Any]]
    complaints: list[str] = field(default_factory=list)
    """Wrong results in Postgres or Kafka afterwards."""


def drain(ground: Ground, options: Options, say: Say) -> Part:
    """Measures how fast each contender drains a log of new events."""
    available, missing = split_available(_chosen(CONTENDERS, options), say)
    drains = _drains(ground, available, options, say, ALL_NEW)
    table = report.drain_table("Drain of an existing log", drains, missing=missing)
    figures: dict[str, Sequence[Any]] = {"drain": drains, "missing": missing}
    found = list(floors.drain_floors(drains))
    complaints = _complaints(drains, available, options.rounds)
    return Part([table, report.cpu_table(drains)], found, figures, complaints)


def mixed(ground: Ground, options: Options, say: Say) -> Part:
    """Measures the drain of a log with 2 % stale, 1 % repeated and 0.1 % poison events.

    Contenders that do not survive poison events drain this log without them.
    A short log shows where they stop.
    """
    drains = _drains(ground, MIXED_CONTENDERS, options, say, MIXED)
    mortal = [one for one in MIXED_CONTENDERS if not one.survives_poison]
    survivals = [measure_survival(ground, one, seed=options.seed) for one in mortal]
    tables = [report.stream_table("Drain of a mixed log", drains), report.survival_table(survivals)]
    figures: dict[str, Sequence[Any]] = {"mixed": drains, "survival": survivals}
    complaints = _complaints(drains, _chosen(MIXED_CONTENDERS, options), options.rounds)
    return Part(tables, list(floors.mixed_floors(drains)), figures, complaints)


def sizes(ground: Ground, options: Options, say: Say) -> Part:
    """Measures the drain of events of 1, 10 and 100 kB."""
    return _streams(ground, (SLUICE_2, HANDWRITTEN), options, say, SIZES, "sizes")


def writes(ground: Ground, options: Options, say: Say) -> Part:
    """Measures the drain of events that write 1, 3 and 10 rows."""
    return _streams(ground, (SLUICE_2, FOLD), options, say, WRITES, "writes")


def identities(ground: Ground, options: Options, say: Say) -> Part:
    """Measures the drain into a database that holds millions of identities."""
    streams = tuple(map(stream_after, (0, *options.identities)))
    return _streams(ground, (SLUICE_2, HANDWRITTEN), options, say, streams, "identities")


def shards(ground: Ground, options: Options, say: Say) -> Part:
    """Measures the same drain with 16, 256 and 1,024 queues."""
    drains = _drains(ground, BY_SHARDS, options, say, ALL_NEW)
    title, base = "Drain of an existing log, by number of queues", BY_SHARDS[0].name
    tables = [report.stream_table(title, drains, base), report.cpu_table(drains, base)]
    complaints = _complaints(drains, _chosen(BY_SHARDS, options), options.rounds)
    return Part(tables, list(floors.shard_floors(drains)), {"shards": drains}, complaints)


def _streams(
    ground: Ground,
    contenders: tuple[Contender, ...],
    options: Options,
    say: Say,
    streams: tuple[Stream, ...],
    name: str,
) -> Part:
    drains = [one for stream in streams for one in _drains(ground, contenders, options, say, stream)]
    table = report.stream_table(f"Drain of an existing log, by {name}", drains, contenders[-1].name)
    complaints = _complaints(drains, _chosen(contenders, options), options.rounds * len(streams))
    return Part([table], [], {name: drains}, complaints)


def _chosen(contenders: tuple[Contender, ...], options: Options) -> tuple[Contender, ...]:
    return tuple(c for c in contenders if not options.only or any(o in c.name for o in options.only))


def _drains(
    ground: Ground, contenders: tuple[Contender, ...], options: Options, say: Say, stream: Stream
) -> list[Drain]:
    """Drains the stream by those contenders that the options choose."""
    return list(
        drain_in_turns(
            ground,
            _chosen(contenders, options),
            events=options.events,
            rounds=options.rounds,
            seed=options.seed,
            say=say,
            stream=stream,
        )
    )


def workers(ground: Ground, options: Options, say: Say) -> Part:
    """Measures the same drain by one, two and four workers, and by two workers that all serve every queue."""
    drains = _drains(ground, SCALED, options, say, ALL_NEW)
    tables = [report.scaling_table(drains), report.cpu_table(drains, SLUICE_1.name)]
    complaints = _complaints(drains, _chosen(SCALED, options), options.rounds)
    return Part(tables, list(floors.scaling_floors(drains)), {"workers": drains}, complaints)


def scaling(ground: Ground, options: Options, say: Say) -> Part:
    """Compares the model of docs/scaling.md with drains by one, two and four workers."""
    drains = _drains(ground, CHECKED, options, say, ALL_NEW)
    checked = list(check_model(drains))
    complaints = _complaints(drains, _chosen(CHECKED, options), options.rounds) + model_complaints(checked)
    tables = [report.scaling_table(drains), report.cpu_table(drains, SLUICE_1.name), model_table(checked)]
    return Part(tables, [], {"scaling": checked}, complaints)


def latency(ground: Ground, options: Options, _say: Say) -> Part:
    """Measures the time from scheduled send to commit."""
    found = list(
        measure_latencies(
            ground, seconds=options.seconds, seed=options.seed, quiet_seconds=options.quiet_seconds
        )
    )
    return Part([report.latency_table(found)], list(floors.latency_floors(found)), {"latency": found})


def relay(ground: Ground, options: Options, say: Say) -> Part:
    """Measures the drain with one outgoing event per event, and the speed of one relay."""
    drains = _drains(ground, RELAYED, options, say, ALL_NEW)
    rates = list(measure_rates(ground, rounds=options.rounds))
    title = "From topic to topic: drain of an existing log, with outgoing events sent by the relay"
    tables = [
        report.drain_table(title, drains, FOLD_RELAYED.name),
        report.cpu_table(drains, FOLD_RELAYED.name),
        report.rate_table(rates),
    ]
    found = [*floors.relay_drain_floors(drains), *floors.rate_floors(rates)]
    complaints = _complaints(drains, _chosen(RELAYED, options), options.rounds)
    return Part(tables, found, {"relay drain": drains, "relay": rates}, complaints)


def visible(ground: Ground, options: Options, _say: Say) -> Part:
    """Measures the time until the outgoing record is in Kafka."""
    found = list(
        measure_visible(
            ground,
            seconds=options.seconds,
            rounds=options.rounds,
            seed=options.seed,
            quiet_seconds=options.quiet_seconds,
        )
    )
    middle = middle_of_rounds(found)
    return Part([report.visible_table(middle)], list(floors.visible_floors(middle)), {"visible": found})


def rebuild(ground: Ground, options: Options, say: Say) -> Part:
    """Measures the rebuild of a projection."""
    found = measure_rebuild(ground, events=options.events, seed=options.seed, say=say)
    tables, reached = [report.rebuild_table(found)], list(floors.rebuild_floors(found))
    return Part(tables, reached, {"rebuild": [found]}, found.complaints)


def faults(ground: Ground, options: Options, say: Say) -> Part:
    """Measures the effect of kills and data losses during a drain."""
    found = list(cause_faults(ground, events=options.events, seed=options.seed, say=say))
    complaints = [f"{fault.name}: {complaint}" for fault in found for complaint in fault.complaints]
    return Part([report.fault_table(found)], list(floors.fault_floors(found)), {"faults": found}, complaints)


def cost(ground: Ground, options: Options, _say: Say) -> Part:
    """Measures the cost of an event in Postgres by batch size, writes, lanes, waiting rows and identities."""
    found = list(measure_in_turns(ground, events=options.events, rounds=options.rounds, seed=options.seed))
    return Part([report.cost_table(found)], list(floors.cost_floors(found)), {"cost": found})


def memory(ground: Ground, options: Options, _say: Say) -> Part:
    """Measures memory while many events wait."""
    found = measure_memory(ground, waiting=options.waiting, seed=options.seed)
    reached = list(floors.memory_floors(found, BRIDGE_BUDGET_MIB))
    return Part([report.memory_table(found)], reached, {"memory": [found]})


def idle(ground: Ground, options: Options, _say: Say) -> Part:
    """Measures the CPU of each process while no event arrives."""
    contenders = _chosen((*IDLE, *(WITH_MANY if options.idle_with_many else ())), options)
    found = list(measure_idle(ground, contenders, seconds=options.idle_seconds))
    return Part([report.idle_table(found)], list(floors.idle_floors(found)), {"idle": found})


def snapshot(ground: Ground, options: Options, say: Say) -> Part:
    """Measures cost and delay of 1,000 events a second while another session holds an old snapshot."""
    found = measure_snapshot(ground, seconds=options.snapshot_seconds, seed=options.seed, say=say)
    return Part([report.snapshot_table(found)], list(floors.snapshot_floors(found)), {"snapshot": found})


def world(_ground: Ground, _options: Options, _say: Say) -> Part:
    """Measures the speed of tests of handlers in memory."""
    found = measure_world()
    return Part([report.world_table(found)], list(floors.world_floors(found)), {"world": [found]})


PARTS: dict[str, Callable[[Ground, Options, Say], Part]] = {
    part.__name__: part
    for part in (
        drain,
        mixed,
        latency,
        sizes,
        writes,
        identities,
        workers,
        shards,
        scaling,
        relay,
        visible,
        rebuild,
        faults,
        snapshot,
        cost,
        idle,
        memory,
        world,
    )
}


def describe_parts() -> str:
    """Returns a line about each part."""
    return "\n".join(f"{name}: {(part.__doc__ or '').splitlines()[0]}" for name, part in PARTS.items())


def _complaints(drains: Sequence[Drain], contenders: Sequence[Contender], drains_each: int) -> list[str]:
    """Returns what is wrong with the drains. Sluice must have `drains_each`; a peer may get stuck."""
    complaints = [f"{drain.contender}: {complaint}" for drain in drains for complaint in drain.complaints]
    counts = Counter(drain.contender for drain in drains)
    return complaints + [
        f"{one.name}: {drains_each - counts[one.name]} drains did not end"
        for one in contenders
        if one.has_bridge and counts[one.name] < drains_each
    ]
