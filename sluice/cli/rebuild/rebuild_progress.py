"""How far a generation is, as figures and as a bar that moves until it is ready."""

import time

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild.progress import reached_of
from sluice.db.connection import Session
from sluice.db.projections.generation_lag import read_lane_states
from sluice.db.projections.generation_lanes import read_passed
from sluice.db.projections.generations import read_generations

LOOK_SECONDS = 0.5
SAY_SECONDS = 5.0  # without a terminal
WATCHED = frozenset({"building"})


def watch(session: Session, projection: str, generation: int) -> None:
    """Returns once the generation is ready. Raises OperationRefused if it fails or is paused meanwhile."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} events/s"),
        TimeRemainingColumn(),
    )
    name = f"{projection}, generation {generation}"
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(name, total=None, rate="-")
        seen, began, said = 0, time.monotonic(), float("-inf")
        while True:
            now = time.monotonic()
            found = [one for one in read_generations(session, projection) if one.generation == generation]
            if not found:
                raise OperationRefused(f"{name} was dropped meanwhile")
            if found[0].state == "failed":
                raise OperationRefused(f"{name} failed: {found[0].failed_reason}")
            if found[0].state not in WATCHED:
                return
            if found[0].paused:
                raise OperationRefused(f"{name} is paused: `sluice rebuild resume {projection}` goes on")
            reached = reached_of(read_lane_states(session, projection, generation))
            records = sum(read_passed(session, projection, generation).values())
            rate = (records - seen) / (now - began) if now > began else 0.0
            progress.update(bar, completed=reached.done, total=reached.total, rate=f"{rate:,.0f}")
            if not console.is_terminal and now - said >= SAY_SECONDS:
                said = now
                typer.echo(f"{name}: {reached.done:,} of {reached.total:,}, {rate:,.0f} events/s", err=True)
            time.sleep(LOOK_SECONDS)
