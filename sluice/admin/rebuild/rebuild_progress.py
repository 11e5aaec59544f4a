"""Computes the progress of a generation, and follows it until it is ready."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sluice.admin.decisions import OperationRefused
from sluice.admin.doctor.rules_processes import unfilled_problem
from sluice.admin.doctor.situation_reading import read_generation_facts
from sluice.db.connection import Session
from sluice.db.delivery.living_processes import read_living
from sluice.db.projections.comparison import read_newest_report
from sluice.db.projections.generation_deaths import read_deaths
from sluice.db.projections.generation_lag import LaneState, read_lane_states
from sluice.db.projections.generation_lanes import FOLDED, read_passed
from sluice.db.projections.generations import Generation, read_generations
from sluice.db.records import GenerationState
from sluice.runtime.log_pace import LogPace

READ_SECONDS = 0.5
STILL_SECONDS = 5.0  # without progress for this time, the generation may have no worker
MOST_DEATHS = 20  # maximum number of dead letters that a document lists


@dataclass(frozen=True)
class Reached:
    """The progress of a generation: `done` of `total` records, counted by offsets, and the number
    of lanes that lag.
    """

    done: int
    total: int
    lagging_lanes: int
    lagging_partitions: int


def reached_of(lanes: Iterable[LaneState]) -> Reached:
    """Returns the progress of all lanes. Assumes that the lanes of a partition have equal shares
    of its offsets. Pure.
    """
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


@dataclass(frozen=True)
class Moved:
    """The progress of a generation, and the events per second since the command began to follow it."""

    reached: Reached
    events_per_second: float
    unfilled: str | None = None
    """Why no worker fills the generation; reported once a minute while the generation makes no progress."""


def follow(
    session: Session,
    projection: str,
    generation: int,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[Moved]:
    """Yields the progress of the generation every READ_SECONDS, and ends when the generation is ready.

    Raises OperationRefused if the generation fails, is paused or is dropped in the meantime.
    """
    began = moved_at = clock()
    before = None
    pace = LogPace(clock=clock)
    while is_building(session, projection, generation):
        reached = reached_of(read_lane_states(session, projection, generation))
        records = sum(read_passed(session, projection, generation).values())
        if (reached.done, records) != before:
            before, moved_at = (reached.done, records), clock()
        unfilled = None
        if clock() - moved_at >= STILL_SECONDS:
            unfilled = find_unfilled(session, projection, generation)
            if unfilled is not None and not pace.allows("unfilled"):
                unfilled = None
        seconds = clock() - began
        yield Moved(reached, records / seconds if seconds > 0 else 0.0, unfilled)
        sleep(READ_SECONDS)


def find_unfilled(session: Session, projection: str, generation: int) -> str | None:
    """Returns why no worker fills the generation, and how to start one; None if a worker fills it."""
    living = read_living(session)
    for one in read_generation_facts(session):
        if (one.projection, one.generation) == (projection, generation):
            finding = unfilled_problem(one, living)
            return None if finding is None else f"{finding.problem} {finding.advice}"
    return None


def is_building(session: Session, projection: str, generation: int) -> bool:
    """Returns False if the generation is ready.

    Raises OperationRefused if the generation failed, is paused or was dropped.
    """
    name = f"{projection}, generation {generation}"
    found = [one for one in read_generations(session, projection) if one.generation == generation]
    if not found:
        raise OperationRefused(f"{name} was dropped meanwhile")
    if found[0].state == GenerationState.FAILED:
        raise OperationRefused(f"{name} failed: {found[0].failed_reason}")
    if found[0].state != GenerationState.BUILDING:
        return False
    if found[0].paused:
        raise OperationRefused(f'{name} is paused: run `sluice rebuild resume {projection} --reason "…"`')
    return True


def generation_document(session: Session, one: Generation) -> dict[str, Any]:
    """Returns the generation as a JSON object, with its open letters, and its progress unless it is live."""
    deaths, first = read_deaths(session, one.projection, one.generation, MOST_DEATHS)
    died = {"count": deaths, "first": [death._asdict() for death in first]}
    document: dict[str, Any] = one._asdict() | {"died_in_generation": died}
    if one.state == GenerationState.LIVE:
        return document
    passed = read_passed(session, one.projection, one.generation)
    report = read_newest_report(session, one.projection, one.generation)
    reached = reached_of(read_lane_states(session, one.projection, one.generation))
    return document | {
        "done": reached.done,
        "total": reached.total,
        "lagging_lanes": reached.lagging_lanes,
        "folded": passed.pop(FOLDED),
        "passed_over": passed,
        "report": report
        and {
            "against": report.against,
            "made_at": report.made_at,
            "differing": report.differing,
            "approved_by": report.approved_by,
        },
    }
