"""Finds why bridges do not read a topic, by the rules of a bridge and as bridges reported. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from sluice.bridge.start_conditions import LoudStop, StopKind, judge_assignment
from sluice.db.delivery.partition_reads import PartitionRead
from sluice.db.delivery.progress import Assignment
from sluice.db.records import ProblemKind
from sluice.kafka_io.log_range import LogRange
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place


def is_only_raised(
    topic: str,
    topic_id: str,
    assignments: Mapping[Place, Assignment],
    logs: Mapping[int, LogRange],
    reads: Iterable[PartitionRead],
    share: PartitionShare,
) -> bool:
    """Returns True if bridges refuse the topic only because partitions were added. Pure."""
    if {number for _, number in assignments} - logs.keys():
        return False
    stops = [
        verdict
        for (_, number), one in assignments.items()
        for verdict in [
            judge_assignment(topic, number, one, topic_id=topic_id, log=logs[number], share=share)
        ]
        if isinstance(verdict, LoudStop)
    ]
    explained = {stop.message for stop in stops if stop.kind is StopKind.RAISED}
    reported = {one.detail for one in reads if one.problem is ProblemKind.STOPPED and one.detail}
    return bool(stops) and all(stop.kind is StopKind.RAISED for stop in stops) and reported <= explained


def find_reasons(
    topic: str,
    topic_id: str,
    assignments: Mapping[Place, Assignment],
    logs: Mapping[int, LogRange],
    reads: Iterable[PartitionRead],
    share: PartitionShare = WHOLE,
) -> Iterator[str]:
    """Yields the reasons why bridges cannot safely continue: by the rules of a bridge, and as
    bridges reported. Pure.
    """
    reported = {one.detail for one in reads if one.problem is ProblemKind.STOPPED and one.detail}
    for (_, number), assignment in sorted(assignments.items()):
        if (log := logs.get(number)) is None:
            yield f"{topic}[{number}] does not exist any more: the topic has fewer partitions than before"
            continue
        verdict = judge_assignment(topic, number, assignment, topic_id=topic_id, log=log, share=share)
        if isinstance(verdict, LoudStop) and verdict.message not in reported:
            yield verdict.message
    yield from sorted(reported)
