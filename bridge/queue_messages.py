"""The messages of one queue: the next one to publish, and one that is in flight. Pure."""

import math
from dataclasses import dataclass

from sluice.bridge.lanes import Lane
from sluice.tasks.apply.batch_message import Slice


@dataclass(frozen=True)
class OutgoingBatch:
    """One message to publish. Nothing has changed until `note_sent`: a failed publish leaves it unsent."""

    queue: str
    parts: tuple[tuple[Lane, Slice, int], ...]
    """Lane, its slice, the slice's bytes."""

    @property
    def slices(self) -> list[Slice]:
        """What the message carries."""
        return [part for _, part, _ in self.parts]


@dataclass
class MessageInFlight:
    """One that was sent. `ends`: the last offset of each lane's slice."""

    id: str
    ends: dict[Lane, int]
    in_hand_since: float = math.inf
    missing_at: int | None = None
    """How often progress was read when it was not found for the first time."""
