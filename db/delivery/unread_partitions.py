"""Finds partitions that no bridge reads or that do not advance, with the reason and the time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sluice.db.connection import Session
from sluice.db.delivery.living_processes import read_living
from sluice.db.delivery.partition_reads import (
    READ_SECONDS,
    SEEN_SECONDS,
    PartitionRead,
    read_partition_reads,
)
from sluice.db.records import ProblemKind, ProcessKind
from sluice.runtime.place import place_names

# Bridges report every partition of their topics at least this often.
KNOWN_SECONDS = 2 * SEEN_SECONDS + READ_SECONDS


class UnreadKind(StrEnum):
    """The reason why a partition is not read: a ProblemKind that a bridge has reported, or another reason."""

    NO_LEADER = ProblemKind.NO_LEADER
    NOT_AUTHORIZED = ProblemKind.NOT_AUTHORIZED
    KAFKA_ERROR = ProblemKind.KAFKA_ERROR
    UNREADABLE_RECORD = ProblemKind.UNREADABLE_RECORD
    STOPPED = ProblemKind.STOPPED
    PAUSED = "paused"
    UNASSIGNED = "unassigned"
    NO_BRIDGE = "no_bridge"


@dataclass(frozen=True)
class UnreadPartition:
    """A partition that is not read or does not advance.

    `seconds`: the time since it was last read. If a bridge reads it, the time since its problem began.
    """

    topic: str
    partition: int
    kind: UnreadKind
    reason: str
    seconds: float


def read_unread(session: Session, paused: Mapping[str, str]) -> list[UnreadPartition]:
    """Returns partitions that no bridge reads or that do not advance. `paused`: topic → reason."""
    bridges = sum(one.kind is ProcessKind.BRIDGE for one in read_living(session))
    return find_unread(read_partition_reads(session), bridges=bridges, paused=paused)


def find_unread(
    reads: Iterable[PartitionRead], *, bridges: int, paused: Mapping[str, str]
) -> list[UnreadPartition]:
    """Finds such partitions in the bridges' reports.

    `bridges`: the number of running bridges. `paused`: topic → the reason.
    """
    rows = list(reads)
    # If several partitions of a topic report a stop, the stop of the first partition counts for the topic.
    stopped = {
        row.topic: row.detail or ""
        for row in reversed(rows)
        if row.problem is ProblemKind.STOPPED and _is_reported(row)
    }
    found = []
    for row in rows:
        # Bridges run, but do not report the partition. Either no running bridge declares its topic, or the
        # partition no longer exists in Kafka.
        if bridges and row.reported_seconds > KNOWN_SECONDS:
            continue
        # A partition is not read for a moment when it was just found, or when a bridge takes it over.
        is_new = row.unread_seconds is None or row.unread_seconds < READ_SECONDS
        if is_new and row.problem is None:
            continue
        kind, reason = _judge(row, bridges, stopped.get(row.topic), paused.get(row.topic))
        since = row.problem_seconds if row.unread_seconds is None else row.unread_seconds
        found.append(UnreadPartition(row.topic, row.partition, kind, reason, since or 0.0))
    return found


def _judge(
    row: PartitionRead, bridges: int, stopped: str | None, paused: str | None
) -> tuple[UnreadKind, str]:
    if not bridges:
        last = f"; the last reported problem: {row.detail}" if row.problem else ""
        return UnreadKind.NO_BRIDGE, f"no bridge runs{last}"
    if row.problem is not None and _is_reported(row):
        return UnreadKind(row.problem), row.detail or ""
    if stopped is not None:
        return UnreadKind.STOPPED, stopped
    if paused is not None:
        return UnreadKind.PAUSED, f"the topic is paused: {paused}"
    return UnreadKind.UNASSIGNED, "no bridge is assigned to the partition, or its bridge does not report it"


def _is_reported(row: PartitionRead) -> bool:
    return row.reported_seconds <= READ_SECONDS


def group_unread(unread: Iterable[UnreadPartition]) -> list[list[UnreadPartition]]:
    """Groups partitions by reason, in the order of the first partition of each group."""
    groups: dict[tuple[UnreadKind, str], list[UnreadPartition]] = {}
    for one in unread:
        groups.setdefault((one.kind, one.reason), []).append(one)
    return list(groups.values())


def describe_unread(group: Sequence[UnreadPartition]) -> str:
    """Returns a sentence about partitions with the same reason."""
    names = ", ".join(place_names((one.topic, one.partition) for one in group))
    verb = "are" if len(group) > 1 else "is"
    return f"{names} {verb} not read for {max(one.seconds for one in group):.0f} s: {group[0].reason}"
