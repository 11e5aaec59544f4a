"""`python -m bench`: measures Sluice and its peers in one run, verifies the results, prints the figures."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.floors import Floor
from bench.ground import Ground
from bench.latency import warm_servers
from bench.options import FAST, FAST_PARTS, Options
from bench.parts import PARTS, describe_parts
from bench.readme_block import Circumstances, render_block, replace_block
from bench.report import floor_table
from sluice import __version__
from sluice.stack import Stack, StackError

ROOT = Path(".sluice/bench").absolute()
README = Path(__file__).parents[1] / "README.md"
README_PARTS = frozenset({"drain", "mixed", "latency"})
HELP = f"""Measure Sluice and its peers. The exit code is 1 if results in Postgres or Kafka are wrong.

Figures that miss their limit are printed, but do not change the exit code, because the machine may be busy.
To drain a log means to process all events that it holds at the start. An identity is the stored key by which
Sluice recognises a repeated event.

\b
{describe_parts()}
"""

app = typer.Typer(add_completion=False)


@app.command(help=HELP)
def main(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help=f"Parts to run. Default: all; if --fast is given: {', '.join(FAST_PARTS)}."),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Run a short bench, in less than 5 minutes.")] = False,
    events: Annotated[int | None, typer.Option(help="Events per drain.")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="How often each drain, rate and cost is measured.")
    ] = None,
    seconds: Annotated[int | None, typer.Option(help="Duration at each rate, in seconds.")] = None,
    waiting: Annotated[
        int | None, typer.Option(help="Number of waiting events while memory is measured.")
    ] = None,
    identities: Annotated[
        list[int] | None, typer.Option(help="Number of identities stored before a drain; repeatable.")
    ] = None,
    snapshot_seconds: Annotated[
        int | None, typer.Option(help="Time for which an old snapshot is held, in seconds.")
    ] = None,
    warm_up_seconds: Annotated[
        int | None, typer.Option(help="Duration of the warm-up of the servers, in seconds.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same events.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Drain only contenders whose name contains this text.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write all figures to this file.")
    ] = None,
    write_readme: Annotated[
        bool, typer.Option("--write-readme", help="Write the figures into README, if all results are right.")
    ] = False,
) -> None:
    """Runs the parts, prints their tables, and writes the files."""
    chosen = parts or list(FAST_PARTS if fast else PARTS)
    if unknown := set(chosen) - PARTS.keys():
        raise typer.BadParameter(f"unknown part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    if write_readme and (missing := README_PARTS - set(chosen)):
        raise typer.BadParameter(f"--write-readme also needs the parts {', '.join(sorted(missing))}")
    given = {
        "events": events,
        "rounds": rounds,
        "seconds": seconds,
        "waiting": waiting,
        "identities": tuple(identities) if identities else None,
        "snapshot_seconds": snapshot_seconds,
        "warm_up_seconds": warm_up_seconds,
        "seed": seed,
        "only": tuple(only) if only else None,
    }
    # mypy cannot know the types of the fields behind these names.
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    options = replace(FAST if fast else Options(), **changed)
    console = Console(width=160)
    figures: dict[str, Any] = {}
    floors: list[Floor] = []
    complaints: list[str] = []

    def say(line: str) -> None:
        console.print(f"  {line}", style="dim", highlight=False)

    with _ground(console) as ground:
        say("warming the servers")
        warm_servers(ground, options.warm_up_seconds)
        for name in chosen:
            part = PARTS[name](ground, options, say)
            console.print(*part.tables)
            figures |= part.figures
            floors += part.floors
            complaints += part.complaints
    console.print(floor_table(floors))
    if json_file is not None:
        plain = {what: [asdict(one) for one in found] for what, found in figures.items()}
        json_file.write_text(json.dumps(plain, indent=1, ensure_ascii=False))
    for complaint in complaints:
        console.print(complaint, style="red")
    if write_readme and not complaints:
        date = datetime.now(UTC).date().isoformat()
        where = Circumstances(date, __version__, os.cpu_count() or 0, options.rounds)
        block = render_block(
            where, figures["drain"], figures["mixed"], figures["latency"], figures["missing"]
        )
        README.write_text(replace_block(README.read_text(), block))
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
    app()
