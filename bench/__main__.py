"""`python -m bench`: measures Sluice and its peers in one run, checks what they left, prints the figures."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench import report
from bench.contenders import CONTENDERS
from bench.drain import drain_in_turns
from bench.faults import play_faults
from bench.floors import Floor, cost_floors, drain_floors, fault_floors, latency_floors, memory_floors
from bench.ground import Ground
from bench.latency import measure_latencies
from bench.memory import measure_memory
from bench.postgres_cost import measure_in_turns
from ops.stack import Stack, StackError
from tasks.settings import Settings

ROOT = Path(".sluice/bench").absolute()
PARTS = ("drain", "latency", "faults", "cost", "memory")
BRIDGE_BUDGET_MIB = int(Settings.model_fields["bridge_memory_mib"].default)


def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"Which: {', '.join(PARTS)}. All without.")
    ] = None,
    events: Annotated[int, typer.Option(help="Events per drain.")] = 300_000,
    rounds: Annotated[int, typer.Option(help="Alternating rounds of drains and costs.")] = 3,
    seconds: Annotated[int, typer.Option(help="Seconds measured at each rate.")] = 20,
    waiting: Annotated[int, typer.Option(help="Events that wait while memory is measured.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="The same seed, the same events.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Drain only contenders whose name has this.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here, too.")] = None,
) -> None:
    """Measure. The exit code is 1 if something left in Postgres was not as it must be.

    Floors that are not met are printed and change no exit code: the machine may be busy.
    """
    chosen = parts or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        raise typer.BadParameter(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    contenders = tuple(c for c in CONTENDERS if not only or any(part in c.name for part in only))
    console = Console(width=160)
    figures: dict[str, list[Any]] = {}
    floors: list[Floor] = []
    complaints: list[str] = []

    def say(line: str) -> None:
        console.print(f"  {line}", style="dim", highlight=False)

    with _ground(console) as ground:
        if "drain" in chosen:
            drains = list(
                drain_in_turns(ground, contenders, events=events, rounds=rounds, seed=seed, say=say)
            )
            complaints += [f"{d.contender}: {c}" for d in drains for c in d.complaints]
            console.print(report.drain_table(drains), report.cpu_table(drains))
            floors += drain_floors(drains)
            figures["drain"] = drains
        if "latency" in chosen:
            latencies = list(measure_latencies(ground, seconds=seconds, seed=seed))
            console.print(report.latency_table(latencies))
            floors += latency_floors(latencies)
            figures["latency"] = latencies
        if "faults" in chosen:
            faults = list(play_faults(ground, events=events, seed=seed, say=say))
            complaints += [f"{f.name}: {c}" for f in faults for c in f.complaints]
            console.print(report.fault_table(faults))
            floors += fault_floors(faults)
            figures["faults"] = faults
        if "cost" in chosen:
            costs = list(measure_in_turns(ground, rounds=rounds, seed=seed))
            console.print(report.cost_table(costs))
            floors += cost_floors(costs)
            figures["cost"] = costs
        if "memory" in chosen:
            memory = measure_memory(ground, waiting=waiting, seed=seed)
            console.print(report.memory_table(memory))
            floors += memory_floors(memory, BRIDGE_BUDGET_MIB)
            figures["memory"] = [memory]
    console.print(report.floor_table(floors))
    if json_file is not None:
        document = {part: [asdict(one) for one in found] for part, found in figures.items()}
        json_file.write_text(json.dumps(document, indent=1, ensure_ascii=False))
    for complaint in complaints:
        console.print(complaint, style="red")
    raise typer.Exit(1 if complaints else 0)


@contextmanager
def _ground(console: Console) -> Iterator[Ground]:
    stack = Stack(ROOT / "stack", report=lambda line: console.print(f"  {line}", style="dim"))
    try:
        # What an earlier run left, even one that was killed.
        stack.down(wipe=True)
        ground = Ground(ROOT, stack)
        ground.prepare()
        yield ground
    except StackError as error:
        console.print(str(error), style="red")
        raise typer.Exit(2) from error
    finally:
        stack.down(wipe=True)


if __name__ == "__main__":
    typer.run(main)
