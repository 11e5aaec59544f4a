"""The identifiers of a partition and of an event, the same in all modules."""

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

Place: TypeAlias = tuple[str, int]
"""A partition: (topic, number)."""


class EventPlace(NamedTuple):
    """The position of an event.

    The topic's id distinguishes a topic from a re-created topic of the same name.
    """

    topic: str
    topic_id: str
    partition: int
    offset: int


def place_names(places: Iterable[Place]) -> list[str]:
    """Returns the names of the partitions for log lines, in order."""
    return [f"{topic}[{partition}]" for topic, partition in sorted(places)]
