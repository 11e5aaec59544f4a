"""How much of a log has no outcome yet. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from sluice.runtime.place import Place


@dataclass(frozen=True)
class LogRange:
    """The offsets a partition's log holds: from `start` on, up to before `end`."""

    start: int
    end: int


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
