"""Decides if a partition starts, first needs rows in Postgres, or stops its topic. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from sluice.db.delivery.progress import Assignment
from sluice.kafka_io.consumer import TopicFacts
from sluice.kafka_io.log_range import LogRange
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place


@dataclass(frozen=True)
class Start:
    """The partition starts: read it from the watermark on."""

    assignment: Assignment
    watermark: int


@dataclass(frozen=True)
class NeedsRows:
    """The topic or partition is new. Insert its rows, then read the assignment again."""


class StopKind(Enum):
    """The reason why further reading would skip records."""

    RECREATED = "the topic was re-created"
    GONE = "the topic is gone"
    EPOCHS_DIFFER = "a re-routing is incomplete"
    DELETED = "records were deleted before they were applied"
    ABOVE_END = "the log ends below the applied records"
    TRUNCATED = "the log lost records that were read"
    TOO_LARGE = "a record is too large for a message"
    UNDIVIDED = "the share does not divide the partitions"
    RAISED = "partitions were added"


@dataclass(frozen=True)
class LoudStop:
    """A reason to stop a topic, because further reading would skip records.

    The message contains the cause and the operator's options.
    """

    kind: StopKind
    message: str


AssignmentVerdict: TypeAlias = Start | NeedsRows | LoudStop


def judge_assignment(
    topic: str,
    partition: int,
    assignment: Assignment | None,
    *,
    topic_id: str,
    log: LogRange,
    share: PartitionShare = WHOLE,
) -> AssignmentVerdict:
    """Decides if a partition starts, needs rows, or stops its topic.

    `log` must have been read after the assignment. In the reverse order, records that were written and
    applied in between would make the applied offsets higher than the log's end.
    """
    if assignment is None:
        return NeedsRows()
    if assignment.topic_id != topic_id:
        return LoudStop(
            StopKind.RECREATED,
            f"Topic {topic} was re-created: its id was {assignment.topic_id} and is {topic_id},"
            f" so its offsets now belong to other records. {_accept(topic)}",
        )
    if assignment.watermark is None:
        # All partitions of a share are registered together, so this partition was added later.
        return NeedsRows() if share.is_whole else _raised(topic, partition, share)
    where = f"{topic}[{partition}]"
    if assignment.partition_epoch != assignment.epoch:
        return LoudStop(
            StopKind.EPOCHS_DIFFER,
            f"{where} is routed with epoch {assignment.partition_epoch}, but entity type"
            f" {assignment.entity} has epoch {assignment.epoch}: a manual re-routing is incomplete."
            f" {_accept(topic)}",
        )
    if assignment.watermark < log.start:
        return LoudStop(
            StopKind.DELETED,
            f"{where}: records from offset {assignment.watermark} to {log.start - 1} were deleted from the"
            f" log before they were applied (the retention of the topic is too short, or no bridge ran)."
            f" {_accept(topic)}",
        )
    newest = max([assignment.watermark - 1, *assignment.applied.values()])
    if newest >= log.end:
        return LoudStop(
            StopKind.ABOVE_END,
            f"{where}: offset {newest} was applied, but the log ends at {log.end}: the log lost records"
            f" (unclean election, restored cluster), so new records get the offsets of lost records."
            f" {_accept(topic)}",
        )
    return Start(assignment, assignment.watermark)


def judge_logs(
    topics: Mapping[str, TopicFacts],
    declared: Iterable[str],
    assignments: Mapping[Place, Assignment],
    logs: Mapping[Place, LogRange],
    share: PartitionShare = WHOLE,
) -> dict[Place, LoudStop | None]:
    """Returns the stop of each partition whose log is known; None if the partition may start or needs rows.

    For a declared topic that does not exist in Kafka, or whose partitions the share does not divide, the
    first partition of the share gets the stop.
    """
    judged: dict[Place, LoudStop | None] = {}
    for place, log in logs.items():
        topic, partition = place
        if topic in topics and partition < topics[topic].partitions:
            topic_id = topics[topic].topic_id
            verdict = judge_assignment(
                topic, partition, assignments.get(place), topic_id=topic_id, log=log, share=share
            )
            judged[place] = verdict if isinstance(verdict, LoudStop) else None
    for topic, facts in topics.items():
        if stop := judge_share(topic, facts):
            judged[topic, share.first] = stop
    for topic in set(declared).difference(topics):
        place = (topic, share.first)
        judged[place] = _gone(topic) if place in assignments else None
    return judged


def judge_share(topic: str, facts: TopicFacts) -> LoudStop | None:
    """Returns a stop if the topic's partitions cannot be divided among the shares, else None."""
    flaw = facts.share.flaw(topic, facts.partitions)
    if flaw is None:
        return None
    return LoudStop(StopKind.UNDIVIDED, f"{_sentence(flaw.problem)} {_sentence(flaw.remedy)}")


def truncated(place: Place, error: str) -> LoudStop:
    """Returns the stop for a log that lost records after this bridge had read them."""
    topic, partition = place
    return LoudStop(
        StopKind.TRUNCATED,
        f"{topic}[{partition}]: Kafka lost records that the bridge had read (unclean election): {error}."
        f" Compare the topic with its tables. {_accept(topic)} Or restart the bridge to continue reading.",
    )


def too_large(place: Place, offset: int, error: str) -> LoudStop:
    """Returns the stop for a record that is too large for a message."""
    topic, partition = place
    return LoudStop(
        StopKind.TOO_LARGE,
        f"The record {topic}[{partition}] offset {offset} is too large for a message: {error}."
        f" Delete this record and the earlier ones from the topic. {_accept(topic)}",
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _raised(topic: str, partition: int, share: PartitionShare) -> LoudStop:
    return LoudStop(
        StopKind.RAISED,
        f"{topic}[{partition}] is new: partitions were added to the topic, so events of one entity may now be"
        f' on another partition than before. Run `sluice accept {topic} --reason "…"` in the installation of'
        f" each of the {share.count} shares: the new partitions are then read from their beginning.",
    )


def _gone(topic: str) -> LoudStop:
    return LoudStop(
        StopKind.GONE,
        f"Topic {topic} does not exist: it was deleted, or these brokers never had it. Re-create it and run"
        f' `sluice accept {topic} --reason "…"`, or remove it from the handlers.',
    )


def _accept(topic: str) -> str:
    return (
        f'To accept the topic as it is, run `sluice accept {topic} --reason "…"`: the topic is then read'
        ' again from the beginning of its log (with dedup="position", from where reading stopped).'
    )
