"""Offsets of a partition that an operator skipped. Pure."""

from collections.abc import Iterable
from typing import NamedTuple


class SkippedRange(NamedTuple):
    """The offsets from `first` to `last`, both included."""

    first: int
    last: int


def next_unskipped(skipped: Iterable[SkippedRange], offset: int) -> int:
    """Returns the first offset, at or after this one, that is in none of the ranges."""
    for first, last in sorted(skipped):
        if first <= offset <= last:
            offset = last + 1
    return offset
