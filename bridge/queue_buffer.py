"""When a queue's records are sent, and when they are sent again. Pure: time and list lengths are given."""

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

from sluice.bridge.lanes import MAX_PATIENCE_SECONDS, Lane
from sluice.tasks.apply.batch_message import Slice

FULL_RECORDS = 200  # what one transaction applies well: dearer per event below, no cheaper above
FULL_BYTES = 512 * 1024  # a message is base64 in JSON in Redis: a few of them must not fill it
EAGER_SECONDS = 0.010  # an idle queue's records wait this long for company
PATIENT_SECONDS = 0.250  # and those of a busy queue this long: fewer, fuller messages under load
MAX_MESSAGES = 8  # unapplied per queue: enough to keep a worker busy, little to lose with Redis
STUCK_SECONDS = 30.0  # a lane without progress while its queue goes on, though nothing proves a loss
MAX_PAUSE_SECONDS = 10.0  # of a lane that is not applied while the others of its queue are
HELD_SECONDS = 5.0  # of a lane that no worker of an older version may be sent; keys are read every 10 s
HALTED_RETRY_SECONDS = 5.0  # how often a broken deployment is asked whether it was mended


class Resend(Enum):
    """Why a lane is sent again."""

    OVERTAKEN = "a later message of its queue was applied"
    SILENT = "the queue's list is empty and the lane stands still"
    STUCK = "the queue goes on without the lane"
    HALTED = "the queue is halted: its head is tried again"
    WIPED = "Redis was wiped"


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


class QueueBuffer:
    """What of one queue is unsent, and this bridge's messages to it that are not applied yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.halted = False
        # Lanes with unsent records, in turns: a dict keeps their order.
        self._ready: dict[Lane, None] = {}
        # Lanes that are refused again and again → when one message of each is sent as a trial.
        self._paused: dict[Lane, float] = {}
        # Per message the last offset of each lane's slice; oldest message first.
        self._messages: deque[dict[Lane, int]] = deque()
        self._oldest_at = math.inf
        self._added_at = -math.inf
        self._sent_at = -math.inf
        self._progressed_at = -math.inf

    @property
    def unapplied_messages(self) -> int:
        """Messages of this bridge of which something is not applied."""
        return len(self._messages)

    def note_added(self, lane: Lane, now: float) -> None:
        """The lane got records."""
        if not lane.unsent or self._is_on_trial(lane):
            return
        if not self._ready:
            self._oldest_at = now
        self._ready[lane] = None
        self._added_at = now

    def forget(self, lane: Lane) -> None:
        """The lane's partition is no longer this bridge's business."""
        self._ready.pop(lane, None)
        self._paused.pop(lane, None)
        self._unsend(lane)

    def needs_list_length(self, now: float) -> bool:
        """Whether anything below depends on the length of the queue's list."""
        self._end_pauses(now)
        if self.halted:
            return now - self._sent_at >= HALTED_RETRY_SECONDS
        if self._ready and self._has_room() and now - self._oldest_at >= EAGER_SECONDS:
            return True
        return any(self._is_silent(lane, now) for lane in self._lanes_in_flight())

    def is_due(self, now: float, *, list_is_empty: bool) -> bool:
        """The gate: whether the next message goes now. An unknown list counts as not empty."""
        self._end_pauses(now)
        if not self._ready:
            return False
        if self.halted:
            return list_is_empty and now - self._sent_at >= HALTED_RETRY_SECONDS
        if not self._has_room():
            return False
        if self._is_full():
            return True
        age = now - self._oldest_at
        return age >= PATIENT_SECONDS or (list_is_empty and age >= EAGER_SECONDS)

    def cut(self) -> OutgoingBatch:
        """The next message: up to 200 records or 512 KiB, lanes in turns; a larger record goes alone."""
        records, room = FULL_RECORDS, FULL_BYTES
        parts: list[tuple[Lane, Slice, int]] = []
        for lane in self._ready:
            taken, used = lane.head(records, room)
            if not taken and not parts:
                taken, used = lane.head(1, lane.unsent_bytes)
            if taken:
                parts.append((lane, lane.slice_of(taken), used))
            records, room = records - len(taken), room - used
            if records <= 0 or room <= 0 or len(taken) < len(lane.unsent):
                break
        return OutgoingBatch(self.name, tuple(parts))

    def hold_back(self, lane: Lane, now: float) -> None:
        """The lane cannot be sent now; it is tried again after a while. The others go on."""
        self._ready.pop(lane, None)
        self._paused[lane] = now + HELD_SECONDS

    def note_sent(self, batch: OutgoingBatch, now: float) -> None:
        """The batch, just cut, is in flight."""
        for lane, part, used in batch.parts:
            lane.note_sent(len(part.records), used, now)
            del self._ready[lane]
            if lane.unsent and not lane.is_refused:
                self._ready[lane] = None
        # How old the rest is is not known, only how young it may be.
        self._oldest_at = self._added_at if self._ready else math.inf
        self._messages.append({lane: part.last for lane, part, _ in batch.parts})
        self._sent_at = now

    def resend_overtaken(self, now: float) -> dict[Lane, Resend]:
        """After lanes advanced: forgets messages that are done, and rewinds the lanes that were overtaken.

        A message counts as seen by a worker when one of its slices is applied; whatever of it, or of an
        earlier one, is not applied by then was lost or came in the wrong order.
        """
        self._progressed_at = now
        seen = 0
        for number, ends in enumerate(self._messages, start=1):
            if any(lane.applied >= end for lane, end in ends.items()):
                seen = number
        overtaken: dict[Lane, Resend] = {}
        for _ in range(seen):
            for lane, end in self._messages.popleft().items():
                if lane.applied < end:
                    overtaken[lane] = Resend.OVERTAKEN
        for lane in overtaken:
            lane.refusals += 1
            self.rewind(lane)
            if lane.is_refused:
                # Its patience is over only with the pause: each message of the others would take it along.
                self._ready.pop(lane, None)
                self._paused[lane] = now + min(lane.patience_seconds, MAX_PAUSE_SECONDS)
                lane.patience_seconds = min(2 * lane.patience_seconds, MAX_PATIENCE_SECONDS)
        return overtaken

    def resend_still(self, now: float, *, list_is_empty: bool) -> dict[Lane, Resend]:
        """Rewinds the lanes in flight that stand still for too long, and doubles their patience."""
        found: dict[Lane, Resend] = {}
        for lane in self._lanes_in_flight():
            reason = self._why_still(lane, now, list_is_empty)
            if reason is not None:
                found[lane] = reason
        for lane in found:
            lane.patience_seconds = min(2 * lane.patience_seconds, MAX_PATIENCE_SECONDS)
            lane.refusals += not self.halted
            self.rewind(lane)
        return found

    def _why_still(self, lane: Lane, now: float, list_is_empty: bool) -> Resend | None:
        if self.halted:
            due = list_is_empty and now - self._sent_at >= HALTED_RETRY_SECONDS
            return Resend.HALTED if due else None
        if list_is_empty and self._is_silent(lane, now):
            return Resend.SILENT
        # waiting_since is below _progressed_at: another lane of the queue went on after this one stopped.
        stuck = now - lane.waiting_since >= STUCK_SECONDS and self._progressed_at > lane.waiting_since
        return Resend.STUCK if stuck else None

    def rewind(self, lane: Lane) -> None:
        """The lane's unapplied records are unsent, and urgent."""
        self._unsend(lane)
        lane.rewind()
        if lane.unsent:
            self._ready[lane] = None
            self._oldest_at = -math.inf

    def rewind_all(self) -> int:
        """As `rewind`, of every lane in flight; how many."""
        lanes = self._lanes_in_flight()
        for lane in lanes:
            self.rewind(lane)
        return len(lanes)

    def note_applied(self, lane: Lane) -> None:
        """The lane advanced: it may have nothing unsent any more, or be no longer refused."""
        self._paused.pop(lane, None)
        if not lane.unsent:
            self._ready.pop(lane, None)
        elif lane not in self._ready:
            if not self._ready:
                self._oldest_at = -math.inf
            self._ready[lane] = None

    def _unsend(self, lane: Lane) -> None:
        for ends in self._messages:
            ends.pop(lane, None)
        self._messages = deque(ends for ends in self._messages if ends)

    def _lanes_in_flight(self) -> list[Lane]:
        return list({lane: None for ends in self._messages for lane in ends if lane.sent})

    def _is_silent(self, lane: Lane, now: float) -> bool:
        return now - lane.waiting_since >= lane.patience_seconds

    def _has_room(self) -> bool:
        # A refused lane has one message at most, which takes no place away from the others.
        return sum(not all(lane.is_refused for lane in ends) for ends in self._messages) < MAX_MESSAGES

    def _is_on_trial(self, lane: Lane) -> bool:
        return lane in self._paused or (lane.is_refused and bool(lane.sent))

    def _end_pauses(self, now: float) -> None:
        for lane in [lane for lane, until in self._paused.items() if until <= now]:
            del self._paused[lane]
            if lane.unsent:
                self._ready[lane] = None
                self._oldest_at = -math.inf

    def _is_full(self) -> bool:
        records = used = 0
        for lane in self._ready:
            records += len(lane.unsent)
            used += lane.unsent_bytes
            if records >= FULL_RECORDS or used >= FULL_BYTES:
                return True
        return False
