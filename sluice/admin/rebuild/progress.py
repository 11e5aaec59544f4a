"""How far a generation is. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from sluice.db.projections.generation_lag import LaneState


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
