"""What may be done with a newly assigned partition: start it, give it rows first, or stop loudly. Pure."""

from dataclasses import dataclass
from typing import TypeAlias

from sluice.db.delivery.progress import Assignment
from sluice.kafka_io.log_range import LogRange


@dataclass(frozen=True)
class Start:
    """Read on from the watermark."""

    assignment: Assignment
    watermark: int


@dataclass(frozen=True)
class NeedsRows:
    """Neither topic nor partition was seen before: rows first, then read the assignment again."""


@dataclass(frozen=True)
class LoudStop:
    """Nothing may be skipped silently: the message says what happened and what the operator can do."""

    message: str


AssignmentVerdict: TypeAlias = Start | NeedsRows | LoudStop


def judge_assignment(
    topic: str, partition: int, assignment: Assignment | None, *, topic_id: str, log: LogRange
) -> AssignmentVerdict:
    """Judges what Postgres says of a partition against what Kafka says of it."""
    if assignment is None:
        return NeedsRows()
    accept = f'If that is understood: sluice accept {topic} --reason "…" starts at the log\'s beginning.'
    if assignment.topic_id != topic_id:
        return LoudStop(
            f"Topic {topic} was re-created: its id was {assignment.topic_id} and is {topic_id},"
            f" so its offsets mean other records. {accept}"
        )
    if assignment.watermark is None:
        return NeedsRows()
    where = f"{topic}[{partition}]"
    if assignment.partition_epoch != assignment.epoch:
        return LoudStop(
            f"{where} is routed by epoch {assignment.partition_epoch}, its entity type"
            f" {assignment.entity} by {assignment.epoch}: a re-routing was done by hand and not completely."
        )
    if assignment.watermark < log.start:
        return LoudStop(
            f"{where}: records from offset {assignment.watermark} to {log.start - 1} were deleted from the"
            f" log before they were applied (its retention is too short, or the bridge was away). {accept}"
        )
    newest = max([assignment.watermark - 1, *assignment.applied.values()])
    if newest >= log.end:
        return LoudStop(
            f"{where}: offset {newest} was applied, but the log ends at {log.end}: it lost records"
            f" (unclean election, restored cluster), and other ones will come at their offsets. {accept}"
        )
    return Start(assignment, assignment.watermark)
