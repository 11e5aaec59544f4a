"""Reads the log ends of an entity type: an erasure covers the records below them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TypeAlias

from sluice.admin.decisions import OperationRefused
from sluice.kafka_io.log_reader import LogReader
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import PartitionShare

LogEnds: TypeAlias = Mapping[str, tuple[str, Mapping[int, int]]]
"""Topic → its id, and the end of each partition, without topics that Kafka does not have."""
ReadLogEnds: TypeAlias = Callable[[Sequence[str]], LogEnds]


def read_log_ends(access: KafkaAccess, share: PartitionShare, topics: Sequence[str]) -> LogEnds:
    """Returns the share's log ends in Kafka, including open transactions. Raises OperationRefused."""
    with closing(LogReader(access, share)) as reader:
        logs = reader.read_ranges(topics)
    unread = {f"topic {topic}": why for topic, why in logs.unreadable_topics.items()}
    unread |= {f"{topic}[{number}]": why for (topic, number), why in logs.unreadable.items()}
    if unread:
        said = "; ".join(f"{what}: {why}" for what, why in sorted(unread.items()))
        raise OperationRefused(
            f"cannot read all log ends from Kafka ({said}): nothing was erased; run the command again when"
            " these partitions have a leader"
        )
    ends: dict[str, dict[int, int]] = {topic: {} for topic in logs.topic_ids}
    for (topic, number), found in logs.ranges.items():
        ends[topic][number] = found.end if found.log_end is None else max(found.end, found.log_end)
    return {topic: (logs.topic_ids[topic], ends[topic]) for topic in ends}
