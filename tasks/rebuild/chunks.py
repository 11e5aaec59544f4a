"""Which records of a lane a rebuild takes next, and whether it needs the queue's lock for it. Pure."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

CHUNK_RECORDS = 200  # of one transaction: a live one may wait for it
CHUNK_SECONDS = 0.1  # and it should last no longer than this
FEWEST_RECORDS = 10


class Chunk(NamedTuple):
    """The first so many records that wait; afterwards the lane is at `reaches`. None of it: read on."""

    records: int
    reaches: int
    locked: bool
    """Only under the queue's lock: it would meet live, which must not move meanwhile."""


def next_chunk(
    offsets: Sequence[int],
    *,
    live: int,
    read_through: int,
    most: int = CHUNK_RECORDS,
    is_full: bool = False,
) -> Chunk | None:
    """What to take of a lane that is behind live.

    `offsets` are its records that wait, ascending, `live` is how far live has applied the lane, and every
    record of the partition at or below `read_through` was read. A generation never passes live: what lies
    beyond `live` waits. As long as something is left below it, live cannot be met by accident. `is_full`:
    nothing more is read before something was taken.
    """
    due = bisect_right(offsets, live)
    if due > most:
        return Chunk(most, offsets[most - 1], locked=False)
    if read_through >= live:
        return Chunk(due, live, locked=True)
    return Chunk(due, offsets[due - 1], locked=False) if is_full and due else None


def adapted(most: int, records: int, seconds: float) -> int:
    """How many records the next chunk may have, after one of so many took so long."""
    if seconds > CHUNK_SECONDS:
        return max(FEWEST_RECORDS, min(most, int(records * CHUNK_SECONDS / seconds)))
    return min(CHUNK_RECORDS, most + max(1, most // 4))
