"""How a partition, and an event in it, are named: everywhere in the same way."""

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

Place: TypeAlias = tuple[str, int]
"""A partition: (topic, number)."""


class EventPlace(NamedTuple):
    """Where an event is. The topic's id makes it differ from one of a topic that was created anew."""

    topic: str
    topic_id: str
    partition: int
    offset: int


def place_names(places: Iterable[Place]) -> list[str]:
    """Returns the partitions in order, as log lines show them."""
    return [f"{topic}[{partition}]" for topic, partition in sorted(places)]
