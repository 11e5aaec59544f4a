"""The offset range of a partition's log, and the number of records without an outcome. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sluice.runtime.place import Place


@dataclass(frozen=True)
class LogRange:
    """The offsets in a partition's log: from `start` up to, but not including, `end`."""

    start: int
    end: int
    """The end for readers of committed records: the last stable offset."""
    log_end: int | None = None
    """The end of the log including the records of open transactions; None if this end was not read."""

    @property
    def behind_transaction(self) -> int:
        """The number of offsets that readers of committed records get only when an open transaction ends."""
        return 0 if self.log_end is None else max(0, self.log_end - self.end)


@dataclass(frozen=True)
class LogRanges:
    """The ranges of some topics' logs.

    Also contains the partitions and topics that could not be read, with the reasons.
    """

    ranges: Mapping[Place, LogRange] = field(default_factory=dict)
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    """Topic → its id, for topics that exist."""
    unreadable: Mapping[Place, str] = field(default_factory=dict)
    """Partitions that exist and whose leader did not answer."""
    unreadable_topics: Mapping[str, str] = field(default_factory=dict)
    """Topics with unknown partitions, for example because this process has no right to describe them."""
    partitions: Mapping[str, int] = field(default_factory=dict)
    """Topic → the number of its partitions in Kafka, of all shares."""


def lag_records(log: LogRange, watermark: int | None, *, begins_at_end: bool = False) -> int:
    """Returns the number of records between the watermark and the end of the log, at least 0.

    If `watermark` is None, no bridge has started the partition. Then `begins_at_end` is True if a bridge
    would start at the end of the log, and False if it would start at the beginning.
    """
    if watermark is None:
        watermark = log.end if begins_at_end else log.start
    return max(0, log.end - watermark)


def find_unapplied(logs: Mapping[Place, LogRange], lags: Mapping[Place, int]) -> dict[Place, int]:
    """Returns the partitions in which some records have no outcome.

    Maps each partition to the lowest offset that the first of these records can have.
    """
    return {place: max(logs[place].start, logs[place].end - lag) for place, lag in lags.items() if lag}
