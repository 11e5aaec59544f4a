"""How far a generation is, as figures and as a bar that moves until it is ready."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from db.generation_lanes import read_passed
from db.lockstep import LaneState, read_lane_states
from db.projections import read_generations
from db.session import Session
from ops.decisions import NotDone

LOOK_SECONDS = 0.5
SAY_SECONDS = 5.0  # without a terminal
WATCHED = frozenset({"building"})


@dataclass(frozen=True)
class Reached:
    """How far a generation is: `done` of `total` records, by their offsets, and lanes that lag."""

    done: int
    total: int
    lagging_lanes: int
    lagging_partitions: int


def reached_of(lanes: Iterable[LaneState]) -> Reached:
    """The lanes of a partition share its offsets: each stands for its part of them. Pure."""
    by_partition: dict[tuple[str, int], list[LaneState]] = {}
    for lane in lanes:
        by_partition.setdefault((lane.topic, lane.partition), []).append(lane)
    done = total = 0.0
    for own in by_partition.values():
        done += sum(min(lane.generation, lane.live) + 1 for lane in own) / len(own)
        total += sum(lane.live + 1 for lane in own) / len(own)
    lagging = [
        (place, lane) for place, own in by_partition.items() for lane in own if lane.generation < lane.live
    ]
    return Reached(int(done), int(total), len(lagging), len({place for place, _ in lagging}))


def watch(session: Session, projection: str, generation: int) -> None:
    """Returns once the generation is ready. Raises NotDone if it fails or is paused meanwhile."""
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
                raise NotDone(f"{name} was dropped meanwhile")
            if found[0].state == "failed":
                raise NotDone(f"{name} failed: {found[0].failed_reason}")
            if found[0].state not in WATCHED:
                return
            if found[0].paused:
                raise NotDone(f"{name} is paused: `sluice rebuild resume {projection}` goes on")
            reached = reached_of(read_lane_states(session, projection, generation))
            records = sum(read_passed(session, projection, generation).values())
            rate = (records - seen) / (now - began) if now > began else 0.0
            progress.update(bar, completed=reached.done, total=reached.total, rate=f"{rate:,.0f}")
            if not console.is_terminal and now - said >= SAY_SECONDS:
                said = now
                typer.echo(f"{name}: {reached.done:,} of {reached.total:,}, {rate:,.0f} events/s", err=True)
            time.sleep(LOOK_SECONDS)
