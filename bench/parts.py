"""The parts of the bench. Each part measures and returns tables, floors, figures and complaints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from bench import floors, report
from bench.contenders import CONTENDERS, FOLD_RELAYED, RELAYED, SCALED
from bench.drain import Drain, drain_in_turns
from bench.faults import cause_faults
from bench.floors import Floor
from bench.ground import Ground
from bench.latency import measure_latencies
from bench.memory import measure_memory
from bench.postgres_cost import measure_in_turns
from bench.rebuilding import measure_rebuild
from bench.relaying import measure_rates, measure_visible, middle_of_rounds
from bench.scaling_part import CHECKED, check_model, model_complaints, model_table
from bench.world_speed import measure_world
from sluice.runtime.settings import Settings

BRIDGE_BUDGET_MIB = int(Settings.model_fields["bridge_memory_mib"].default)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """The extent of the measurements."""

    events: int
    rounds: int
    seconds: int
    waiting: int
    seed: int
    only: tuple[str, ...]


@dataclass
class Part:
    """The results of one part."""

    tables: list[Table]
    floors: list[Floor]
    figures: dict[str, Sequence[Any]]
    complaints: list[str] = field(default_factory=list)
    """Wrong results in Postgres or Kafka afterwards."""


def drain(ground: Ground, options: Options, say: Say) -> Part:
    """Measures the drain of an existing log by all contenders."""
    chosen = tuple(c for c in CONTENDERS if not options.only or any(o in c.name for o in options.only))
    drains = list(
        drain_in_turns(
            ground, chosen, events=options.events, rounds=options.rounds, seed=options.seed, say=say
        )
    )
    tables = [report.drain_table("Drain of an existing log", drains), report.cpu_table(drains)]
    return Part(tables, list(floors.drain_floors(drains)), {"drain": drains}, _complaints(drains))


def workers(ground: Ground, options: Options, say: Say) -> Part:
    """Measures the same drain by one, two and four workers, and by two workers that all serve every queue."""
    drains = list(
        drain_in_turns(
            ground, SCALED, events=options.events, rounds=options.rounds, seed=options.seed, say=say
        )
    )
    tables = [report.scaling_table(drains), report.cpu_table(drains)]
    return Part(tables, list(floors.scaling_floors(drains)), {"workers": drains}, _complaints(drains))


def scaling(ground: Ground, options: Options, say: Say) -> Part:
    """Compares the model of docs/scaling.md with drains by one, two and four workers."""
    drains = list(
        drain_in_turns(
            ground, CHECKED, events=options.events, rounds=options.rounds, seed=options.seed, say=say
        )
    )
    checked = list(check_model(drains))
    complaints = [*_complaints(drains), *model_complaints(checked)]
    tables = [report.scaling_table(drains), report.cpu_table(drains), model_table(checked)]
    return Part(tables, [], {"scaling": checked}, complaints)


def latency(ground: Ground, options: Options, _say: Say) -> Part:
    """Measures the time from scheduled send to commit."""
    found = list(measure_latencies(ground, seconds=options.seconds, seed=options.seed))
    return Part([report.latency_table(found)], list(floors.latency_floors(found)), {"latency": found})


def relay(ground: Ground, options: Options, say: Say) -> Part:
    """Measures the drain from log to log, and the speed of one relay."""
    drains = list(
        drain_in_turns(
            ground, RELAYED, events=options.events, rounds=options.rounds, seed=options.seed, say=say
        )
    )
    rates = list(measure_rates(ground, rounds=options.rounds))
    title = "From log to log: drain of an existing log, with outgoing events sent by the relay"
    tables = [
        report.drain_table(title, drains, FOLD_RELAYED.name),
        report.cpu_table(drains),
        report.rate_table(rates),
    ]
    found = [*floors.relay_drain_floors(drains), *floors.rate_floors(rates)]
    return Part(tables, found, {"relay drain": drains, "relay": rates}, _complaints(drains))


def visible(ground: Ground, options: Options, _say: Say) -> Part:
    """Measures the time until the outgoing record is in Kafka."""
    found = list(measure_visible(ground, seconds=options.seconds, rounds=options.rounds, seed=options.seed))
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
    """Measures the cost of an event in Postgres."""
    found = list(measure_in_turns(ground, rounds=options.rounds, seed=options.seed))
    return Part([report.cost_table(found)], list(floors.cost_floors(found)), {"cost": found})


def memory(ground: Ground, options: Options, _say: Say) -> Part:
    """Measures memory while many events wait."""
    found = measure_memory(ground, waiting=options.waiting, seed=options.seed)
    reached = list(floors.memory_floors(found, BRIDGE_BUDGET_MIB))
    return Part([report.memory_table(found)], reached, {"memory": [found]})


def world(_ground: Ground, _options: Options, _say: Say) -> Part:
    """Measures the speed of tests of handlers in memory."""
    found = measure_world()
    return Part([report.world_table(found)], list(floors.world_floors(found)), {"world": [found]})


PARTS: dict[str, Callable[[Ground, Options, Say], Part]] = {
    part.__name__: part
    for part in (drain, workers, scaling, latency, relay, visible, rebuild, faults, cost, memory, world)
}


def _complaints(drains: Sequence[Drain]) -> list[str]:
    return [f"{drain.contender}: {complaint}" for drain in drains for complaint in drain.complaints]
