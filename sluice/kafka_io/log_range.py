"""What a partition's log holds, and how much of it has no outcome yet. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sluice.runtime.place import Place


@dataclass(frozen=True)
class LogRange:
    """The offsets a partition's log holds: from `start` on, up to before `end`."""

    start: int
    end: int
    """The end for readers of committed records: the last stable offset."""
    log_end: int | None = None
    """The end with the records of open transactions; None if it was not read."""

    @property
    def behind_transaction(self) -> int:
        """Offsets that readers of committed records get only when an open transaction ends."""
        return 0 if self.log_end is None else max(0, self.log_end - self.end)


@dataclass(frozen=True)
class LogRanges:
    """What was read of some topics' logs, and what could not be read, with the reason."""

    ranges: Mapping[Place, LogRange] = field(default_factory=dict)
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    """Topic → its id, of those that exist."""
    unreadable: Mapping[Place, str] = field(default_factory=dict)
    """Partitions that exist and whose leader did not answer."""
    unreadable_topics: Mapping[str, str] = field(default_factory=dict)
    """Topics whose partitions are not known, such as those this process has no right to describe."""


def lag_records(log: LogRange, watermark: int | None, *, begins_at_end: bool = False) -> int:
    """Records between the watermark and the end of the log; never less than none.

    Without a watermark no bridge has started the partition: `begins_at_end` says where one would begin.
    """
    if watermark is None:
        watermark = log.end if begins_at_end else log.start
    return max(0, log.end - watermark)


def find_unapplied(logs: Mapping[Place, LogRange], lags: Mapping[Place, int]) -> dict[Place, int]:
    """The partitions with records that have no outcome → the offset to look for the first of them."""
    return {place: max(logs[place].start, logs[place].end - lag) for place, lag in lags.items() if lag}
