"""The messages of one queue: a message to publish, and a message in flight. Pure."""

import math
from dataclasses import dataclass

from sluice.bridge.lanes import Lane
from sluice.tasks.apply.batch_message import Slice


@dataclass(frozen=True)
class OutgoingBatch:
    """One message to publish. Until `note_sent`, its records count as unsent, even if publishing failed."""

    queue: str
    parts: tuple[tuple[Lane, Slice, int], ...]
    """The lane, the slice of the lane, and the bytes of the slice."""

    @property
    def slices(self) -> list[Slice]:
        """Returns the slices of the message."""
        return [part for _, part, _ in self.parts]


@dataclass
class MessageInFlight:
    """A sent message. `ends`: the last offset of each lane's slice."""

    id: str
    ends: dict[Lane, int]
    in_hand_since: float = math.inf
    missing_at: int | None = None
    """The number of readings of the progress up to the first search that did not find the message."""
