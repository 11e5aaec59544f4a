"""`python -m bench`: measures Sluice and its peers in one run, verifies the results, prints the figures."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.floors import Floor
from bench.ground import Ground
from bench.latency import warm_servers
from bench.parts import PARTS, Options
from bench.report import floor_table
from sluice.stack import Stack, StackError

ROOT = Path(".sluice/bench").absolute()


def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"Parts to run: {', '.join(PARTS)}. Default: all.")
    ] = None,
    events: Annotated[int, typer.Option(help="Events per drain.")] = 300_000,
    rounds: Annotated[int, typer.Option(help="Rounds of the drains, rates and costs.")] = 3,
    seconds: Annotated[int, typer.Option(help="Duration of the measurement at each rate, in seconds.")] = 20,
    waiting: Annotated[
        int, typer.Option(help="Number of waiting events while memory is measured.")
    ] = 1_000_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same events.")] = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="Drain only contenders whose name contains this text.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write all figures to this file.")
    ] = None,
) -> None:
    """Measure Sluice and its peers. The exit code is 1 if results in Postgres or Kafka are wrong.

    Figures that miss their limit are printed, but do not change the exit code, because the machine
    may be busy.
    """
    chosen = parts or list(PARTS)
    if unknown := set(chosen) - PARTS.keys():
        raise typer.BadParameter(f"unknown part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    options = Options(events, rounds, seconds, waiting, seed, tuple(only or ()))
    console = Console(width=160)
    figures: dict[str, Any] = {}
    floors: list[Floor] = []
    complaints: list[str] = []

    def say(line: str) -> None:
        console.print(f"  {line}", style="dim", highlight=False)

    with _ground(console) as ground:
        say("warming the servers")
        warm_servers(ground)
        for name in chosen:
            part = PARTS[name](ground, options, say)
            console.print(*part.tables)
            figures |= {what: [asdict(one) for one in found] for what, found in part.figures.items()}
            floors += part.floors
            complaints += part.complaints
    console.print(floor_table(floors))
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1, ensure_ascii=False))
    for complaint in complaints:
        console.print(complaint, style="red")
    raise typer.Exit(1 if complaints else 0)


@contextmanager
def _ground(console: Console) -> Iterator[Ground]:
    stack = Stack(ROOT / "stack", report=lambda line: console.print(f"  {line}", style="dim"))
    try:
        # Removes the data that an earlier run left behind, even if that run was killed.
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
