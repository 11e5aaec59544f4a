"""Partitions that are there and that no member of the group has. Pure."""

from collections.abc import Collection, Mapping

from bridge.consumer import METADATA_MAX_AGE_MS, TopicFacts
from db.progress import Place

# Nobody's for so long although the group is at rest, and its leader has looked at the topics meanwhile (every
# METADATA_MAX_AGE_MS): it will not see to them any more.
UNREAD_SECONDS = METADATA_MAX_AGE_MS / 1_000 + 15.0


class Unread:
    """Since when partitions have been nobody's."""

    def __init__(self) -> None:
        self._since: dict[Place, float] = {}

    def note(self, facts: Mapping[str, TopicFacts], held: Collection[Place] | None, now: float) -> None:
        """What the coordinator says: all that members have; None while they are being shared out."""
        if held is None:
            self._since = {}
            return
        there = {(topic, number) for topic, known in facts.items() for number in range(known.partitions)}
        self._since = {place: self._since.get(place, now) for place in there.difference(held)}

    def seconds(self, now: float) -> dict[Place, float]:
        """How long each has been nobody's."""
        return {place: now - since for place, since in self._since.items()}


def overdue(unread: Mapping[Place, float], instance: int) -> list[Place]:
    """Those that this bridge should see to: of several the one with the lowest number is the first."""
    patience = UNREAD_SECONDS * (1 + instance)
    return sorted(place for place, seconds in unread.items() if seconds >= patience)
