"""The share of every topic's partitions that one installation takes. Pure.

With `SLUICE_PARTITION_SHARE=K/N`, an installation takes the partitions p with p mod N = K - 1. Every part of
Sluice that enumerates the partitions of a topic does so by `numbers` or `holds`.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from sluice.runtime.place import Place
from sluice.runtime.terminal_text import counted

_PATTERN = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})")


class ShareFlaw(NamedTuple):
    """Why an installation must not read a topic."""

    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


@dataclass(frozen=True)
class PartitionShare:
    """Share `number` of `count`. Numbers begin at 1."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"{self.number}/{self.count} is no share: K/N requires 1 <= K <= N")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def is_whole(self) -> bool:
        """True if the installation takes all partitions."""
        return self.count == 1

    @property
    def first(self) -> int:
        """The lowest partition of the share. It represents a topic whose partitions are unknown."""
        return self.number - 1

    def holds(self, partition: int) -> bool:
        """Returns True if the partition belongs to the share."""
        return partition % self.count == self.first

    def numbers(self, partitions: int) -> range:
        """Returns the share's partitions of a topic that has `partitions` partitions."""
        return range(self.first, partitions, self.count)

    def flaw(self, topic: str, partitions: int) -> ShareFlaw | None:
        """Returns why an installation with this share must not read the topic; None if it may.

        Producers place a key by hash(key) mod partitions. If `count` divides the partitions, the share of a
        key is hash(key) mod `count`. It is then the same for all topics with the same partitioner.
        """
        if partitions % self.count == 0:
            return None
        return ShareFlaw(
            f"topic {topic} has {counted(partitions, 'partition')}, and {self.count} does not divide this"
            f" number, so with the share {self}, the events of one entity would reach several databases",
            f"if topic {topic} is empty, raise its partitions to a multiple of {self.count}; otherwise copy"
            " its records to a new topic",
        )

    def foreign(self, place: Place) -> str | None:
        """Returns the sentence about a partition of another share; None if the partition is of this share."""
        topic, partition = place
        if self.holds(partition):
            return None
        other = PartitionShare(partition % self.count + 1, self.count)
        return (
            f"{topic}[{partition}] belongs to the installation with SLUICE_PARTITION_SHARE={other}; this"
            f" installation has the share {self}"
        )


WHOLE = PartitionShare()
"""The share of an installation that takes all partitions."""


def parse_share(text: str) -> PartitionShare:
    """Returns the share that the text K/N names. Raises ValueError."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no share; write K/N, as in 1/4, with K from 1 to N")
    return PartitionShare(int(match[1]), int(match[2]))
