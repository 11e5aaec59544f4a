"""The partitions of one member of a group whose installation takes a share of the partitions.

An assignor assigns all partitions of a topic, also those of other shares. The assignor "range" gives each
member consecutive partitions, so each member gets nearly the same number of partitions of every share. With
"cooperative-sticky", two members of a group with the share 1/2 get all even and all odd partitions, so that
one of them has nothing to read. "range" requires the eager protocol, in which a member sets its whole
assignment at once.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from confluent_kafka import TopicPartition

from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place

WHOLE_STRATEGY = "cooperative-sticky"
SHARED_STRATEGY = "range"


def assignment_strategy(share: PartitionShare) -> str:
    """Returns the assignor for the groups of an installation with this share."""
    return WHOLE_STRATEGY if share.is_whole else SHARED_STRATEGY


class SharedAssignment:
    """The assignment of one consumer, limited to the share.

    A partition is fetched only after its first seek.
    """

    def __init__(self, share: PartitionShare) -> None:
        self._share = share
        self._positions: dict[Place, int] = {}
        self._is_applied = True
        self.places: frozenset[Place] = frozenset()
        """The partitions of the share that the group has assigned."""
        self.is_dealt = False
        """True if the group has assigned a partition of any share."""

    def take(self, consumer: Any, partitions: Iterable[TopicPartition]) -> None:
        """Takes a new assignment of the group. Call it in the client's callback."""
        dealt = [(one.topic, one.partition) for one in partitions]
        self.places = frozenset(place for place in dealt if self._share.holds(place[1]))
        self.is_dealt = bool(dealt)
        self._positions, self._is_applied = {}, True
        # Without this call, the client would fetch all partitions that the group has assigned.
        consumer.assign([])

    def drop(self) -> None:
        """Forgets the assignment. The client itself ends the fetches after its callback."""
        self.places, self.is_dealt = frozenset(), False
        self._positions, self._is_applied = {}, True

    def seek(self, place: Place, offset: int) -> None:
        """Sets the position of a partition. The next `apply` starts the fetches there."""
        self._positions[place] = offset
        self._is_applied = False

    def note_polled(self, place: Place, offset: int) -> None:
        """Notes that the records up to this offset were returned."""
        if place in self._positions:
            self._positions[place] = offset + 1

    def apply(self, consumer: Any, paused: AbstractSet[Place]) -> None:
        """Gives the positions to the client, if a position was set since the last call."""
        if self._is_applied:
            return
        self._is_applied = True
        # The eager protocol has no incremental assignment. Records that the client has fetched ahead are
        # fetched again, from the position behind the last record that was returned.
        consumer.assign([TopicPartition(*place, offset) for place, offset in self._positions.items()])
        # A partition that was paused stays paused when it is assigned again.
        for places, change in (
            (self._positions.keys() & paused, consumer.pause),
            (self._positions.keys() - paused, consumer.resume),
        ):
            if places:
                change([TopicPartition(*place) for place in places])

    def fetched(self, places: Iterable[Place]) -> list[TopicPartition]:
        """Returns those of the partitions that the client fetches or has paused."""
        return [TopicPartition(*place) for place in places if place in self._positions]
