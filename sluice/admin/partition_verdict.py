"""Compares the counters of a partition in Postgres with the records in Kafka. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from sluice.db.admin.letters import LetterCount
from sluice.db.admin.outbox_admin import QueueWaiting
from sluice.db.admin.projection_letters import OpenLetterCount
from sluice.db.admin.totals import PartitionTotals
from sluice.runtime.terminal_text import counted
from sluice.tasks.events.routing import queue_name, shard_of


class Verdict(Enum):
    """The result for one partition."""

    EQUAL = "equal"
    UNCOUNTABLE = "uncountable"
    """No contradiction was found, but the log is no longer complete."""
    MISMATCH = "mismatch"


@dataclass(frozen=True)
class LogFacts:
    """The facts of a partition in Kafka. `records` were read and have an outcome in Postgres."""

    start: int
    records: int
    compacted: bool = False
    unread: str | None = None
    """Why the partition could not be read to its end."""


@dataclass(frozen=True)
class PartitionVerdict:
    """One partition: records in the log with an outcome, outcomes in Postgres, and the verdict."""

    topic: str
    partition: int
    watermark: int
    records: int | None
    counted: int
    verdict: Verdict
    said: str


_COUNTED_AGAIN = {
    False: "after an accept or a forced reshard, outcomes were counted again",
    True: "after an accept or a forced reshard, records were read and counted again, because the topic has"
    ' dedup="natural" and stores no identities',
}


def has_outcome(totals: PartitionTotals, offset: int, key: bytes | None) -> bool:
    """Returns True if a record has an outcome: it is below the watermark, or not above the applied
    offset of its lane.
    """
    if offset < totals.watermark:
        return True
    queue = queue_name(totals.entity, shard_of(key, totals.shards))
    return offset <= totals.applied.get(queue, -1)


def end_to_count(totals: PartitionTotals) -> int:
    """Returns the offset from which on no record has an outcome."""
    return max([totals.watermark, *(offset + 1 for offset in totals.applied.values())])


def judge_partition(
    topic: str,
    partition: int,
    totals: PartitionTotals,
    log: LogFacts | None,
    *,
    from_the_end: bool,
    rerouted: bool,
    natural: bool = False,
) -> PartitionVerdict:
    """Compares the outcomes in Postgres with the records in the log.

    `from_the_end`: bridges began to read at the topic's end, so earlier records have no outcome.
    `rerouted`: `sluice accept` or a forced `sluice reshard` was run, so repeats may be counted
    again, and the counters include the outcomes of a former log. `natural`: the topic has
    dedup="natural", so every record that was read again is counted again.
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
        *([_COUNTED_AGAIN[natural]] if rerouted else []),
        *(["a re-routing lets records with an outcome be read again"] if totals.read_again else []),
    ]
    more = ["reading began at the topic's end"] if from_the_end else []
    if log.records == totals.counted:
        found, said = Verdict.EQUAL, ""
    elif log.records < totals.counted and fewer:
        found, said = Verdict.UNCOUNTABLE, " and ".join(fewer)
    elif log.records > totals.counted and more:
        found, said = Verdict.UNCOUNTABLE, " and ".join(more)
    elif log.records > totals.counted:
        missing = log.records - totals.counted
        found, said = (
            Verdict.MISMATCH,
            f"{counted(missing, 'record in the log has', 'records in the log have')} no outcome",
        )
    else:
        found, said = Verdict.MISMATCH, f"{totals.counted - log.records} more outcomes than records"
    return PartitionVerdict(topic, partition, totals.watermark, log.records, totals.counted, found, said)


@dataclass(frozen=True)
class Verified:
    """The results of `sluice verify`: a verdict for each partition, and counts of everything else."""

    partitions: Sequence[PartitionVerdict]
    letters: Sequence[LetterCount]
    parked: int
    outbox: Sequence[QueueWaiting]
    calls: Sequence[tuple[str, str, int]]
    """(effect, state, calls)."""
    projections: Sequence[OpenLetterCount] = ()
    """The projections whose rows lack failed or waiting events."""
    stopped: Sequence[str] = ()
    """The projections that no longer receive events. Their rows are out of date."""

    def mismatches(self) -> list[PartitionVerdict]:
        """Returns the partitions whose counters differ from the log."""
        return [one for one in self.partitions if one.verdict is Verdict.MISMATCH]
