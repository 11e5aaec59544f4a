"""Whether a partition's counters are true, from what was counted in Kafka and in Postgres. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from sluice.db.admin.letters import LetterCount
from sluice.db.admin.outbox_admin import QueueWaiting
from sluice.db.admin.projection_letters import OpenLetterCount
from sluice.db.admin.totals import PartitionTotals
from sluice.tasks.events.routing import queue_name, shard_of


class Verdict(Enum):
    """What can be said of one partition."""

    EQUAL = "equal"
    UNCOUNTABLE = "uncountable"
    """Nothing speaks against it, but the log no longer tells all."""
    MISMATCH = "mismatch"


@dataclass(frozen=True)
class LogFacts:
    """What Kafka says of a partition. `records` have been read, and have an outcome by Postgres's word."""

    start: int
    records: int
    compacted: bool = False
    unread: str | None = None
    """Why it could not be read to its end."""


@dataclass(frozen=True)
class PartitionVerdict:
    """One partition: records in the log that are applied, outcomes in Postgres, and what that means."""

    topic: str
    partition: int
    watermark: int
    records: int | None
    counted: int
    verdict: Verdict
    said: str


def has_outcome(totals: PartitionTotals, offset: int, key: bytes | None) -> bool:
    """Whether a record is applied: it is below the watermark, or its lane is ahead of that."""
    if offset < totals.watermark:
        return True
    queue = queue_name(totals.entity, shard_of(key, totals.shards))
    return offset <= totals.applied.get(queue, -1)


def end_to_count(totals: PartitionTotals) -> int:
    """No record from this offset on has an outcome."""
    return max([totals.watermark, *(offset + 1 for offset in totals.applied.values())])


def judge_partition(
    topic: str,
    partition: int,
    totals: PartitionTotals,
    log: LogFacts | None,
    *,
    from_the_end: bool,
    rerouted: bool,
) -> PartitionVerdict:
    """`from_the_end`: the topic was begun at its end, so that records before that have no outcome.

    `rerouted`: by `sluice accept` or a forced `sluice reshard`, which let repeats be counted again and keep
    the outcomes of a log that is no more.
    """
    if log is None:
        found, said = Verdict.UNCOUNTABLE, "Kafka has no such partition"
        return PartitionVerdict(topic, partition, totals.watermark, None, totals.counted, found, said)
    if log.unread is not None:
        found = Verdict.UNCOUNTABLE
        return PartitionVerdict(topic, partition, totals.watermark, None, totals.counted, found, log.unread)
    fewer = [
        *([f"records below {log.start} are deleted"] if log.start > 0 else []),
        *(["the topic is compacted"] if log.compacted else []),
        *(["by an accept or a forced reshard some outcomes were counted again"] if rerouted else []),
        *(["after a re-routing records with an outcome are read again"] if totals.read_again else []),
    ]
    more = ["the topic was begun at its end"] if from_the_end else []
    if log.records == totals.counted:
        found, said = Verdict.EQUAL, ""
    elif log.records < totals.counted and fewer:
        found, said = Verdict.UNCOUNTABLE, " and ".join(fewer)
    elif log.records > totals.counted and more:
        found, said = Verdict.UNCOUNTABLE, " and ".join(more)
    elif log.records > totals.counted:
        missing = log.records - totals.counted
        found, said = Verdict.MISMATCH, f"{missing} records in the log have no outcome"
    else:
        found, said = Verdict.MISMATCH, f"{totals.counted - log.records} outcomes more than records"
    return PartitionVerdict(topic, partition, totals.watermark, log.records, totals.counted, found, said)


@dataclass(frozen=True)
class Verified:
    """What `sluice verify` found: partitions are judged, the rest is counted."""

    partitions: Sequence[PartitionVerdict]
    letters: Sequence[LetterCount]
    parked: int
    outbox: Sequence[QueueWaiting]
    calls: Sequence[tuple[str, str, int]]
    """(effect, state, calls)."""
    projections: Sequence[OpenLetterCount] = ()
    """The projections whose rows lack events that died or wait there."""
    stopped: Sequence[str] = ()
    """The projections to which nothing is fed: their rows are those of before."""

    def mismatches(self) -> list[PartitionVerdict]:
        """The partitions whose counters are not true."""
        return [one for one in self.partitions if one.verdict is Verdict.MISMATCH]
