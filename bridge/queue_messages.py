"""The messages of one queue: a message to publish, a message in flight, reasons to send again. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from sluice.bridge.lanes import Lane
from sluice.tasks.apply.batch_message import Slice

LOOK_SECONDS = 1.0  # the time between searches for a queue's overdue messages
# The time to the next search after a message was not found; progress is read twice as often.
LOOK_AGAIN_SECONDS = 0.2
# If a running worker has had a message for this long, it is sent again; a batch stops after 20 seconds.
STUCK_SECONDS = 60.0


class Resend(Enum):
    """The reason why a lane is sent again."""

    OVERTAKEN = "a later message of its queue was applied"
    SILENT = "the lane makes no progress, and its message is neither on the list nor in flight at a worker"
    STUCK = "the lane's message has been in flight at a worker for too long"
    HALTED = "the queue is halted: its first records are retried"
    WIPED = "Redis was wiped"


class Due(NamedTuple):
    """The times at which a queue next needs a decision; infinite if only a change can require one."""

    eager: float
    """The time at which a small message is sent if workers are free."""
    old: float
    """The time at which a small message is old. If many queues have messages in flight, it is sent later."""
    must: float
    """The time at which the queue needs a decision even if many queues have messages in flight."""


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


def cut_batch(queue: str, lanes: Iterable[Lane], records: int, room_bytes: int) -> OutgoingBatch:
    """Returns a message with records of the lanes, lane after lane, up to both limits.

    A record that is larger than `room_bytes` gets its own message.
    """
    parts: list[tuple[Lane, Slice, int]] = []
    for lane in lanes:
        taken, used = lane.head(records, room_bytes)
        if not taken and not parts:
            taken, used = lane.head(1, lane.unsent_bytes)
        if taken:
            parts.append((lane, lane.slice_of(taken), used))
        records, room_bytes = records - len(taken), room_bytes - used
        if records <= 0 or room_bytes <= 0 or len(taken) < len(lane.unsent):
            break
    return OutgoingBatch(queue, tuple(parts))


@dataclass
class MessageInFlight:
    """A sent message. `ends`: the last offset of each lane's slice."""

    id: str
    ends: dict[Lane, int]
    in_hand_since: float = math.inf
    missing_at: int | None = None
    """The number of readings of the progress up to the first search that did not find the message."""
