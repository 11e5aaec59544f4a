"""Percentiles, gaps and ranges of measured figures. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median


@dataclass(frozen=True)
class Spread:
    """The minimum, the median and the maximum of several rounds."""

    least: float
    middle: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Returns the spread of the values, of which there must be at least one."""
    return Spread(min(values), median(values), max(values))


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the percentile by the nearest-rank method; `share` is between 0 and 1."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Gap:
    """A time without commits. Times are in seconds since 1970."""

    began_at: float
    ended_at: float

    @property
    def seconds(self) -> float:
        """Returns the length of the gap in seconds."""
        return self.ended_at - self.began_at


def largest_gap(commits: Sequence[float], since: float) -> Gap:
    """Returns the longest gap after `since`. The time `since` counts as a commit. Without commits,
    the gap has 0 s.
    """
    times = [since, *sorted(at for at in commits if at > since)]
    gaps = [Gap(a, b) for a, b in pairwise(times)] or [Gap(since, since)]
    return max(gaps, key=lambda gap: gap.seconds)


def first_after(commits: Sequence[float], since: float) -> float | None:
    """Returns the time of the first commit after `since`; None if there is none."""
    return min((at for at in commits if at > since), default=None)
