"""How a partition is named: everywhere the same pair."""

from collections.abc import Iterable
from typing import TypeAlias

Place: TypeAlias = tuple[str, int]
"""A partition: (topic, number)."""


def place_names(places: Iterable[Place]) -> list[str]:
    """Returns the partitions in order, as log lines show them."""
    return [f"{topic}[{partition}]" for topic, partition in sorted(places)]
