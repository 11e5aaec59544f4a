"""When records of a queue are sent, and when they are sent again. Pure: time and Redis' state are given."""

import math
from collections import deque
from enum import Enum

from sluice.bridge.lanes import MAX_PATIENCE_SECONDS, Lane
from sluice.bridge.queue_messages import MessageInFlight, OutgoingBatch
from sluice.bridge.queue_state import Waiting, Whereabouts
from sluice.tasks.apply.batch_message import Slice

FULL_RECORDS = 200  # what one transaction applies well: dearer per event below, no cheaper above
FULL_BYTES = 512 * 1024  # a message is base64 in JSON in Redis: a few of them must not fill it
EAGER_SECONDS = 0.010  # an idle queue's records wait this long for company
PATIENT_SECONDS = 0.250  # and those of a busy queue this long: fewer, fuller messages under load
MAX_MESSAGES = 8  # on a queue's list: enough to keep a worker busy, little to lose with Redis
MAX_BYTES = 6 * 1024 * 1024  # on a queue's list as Redis stores them: of MAX_MESSAGES full messages
SHORT_MESSAGES = 2  # a worker takes the next one at once: more small messages would only wait longer
LONG_SECONDS = 0.030  # how often the length of a list is asked for that is not short
LOOK_SECONDS = 1.0  # how often messages of a queue are searched for that are overdue
LOOK_AGAIN_SECONDS = 0.2  # after one was not found: progress is read twice as often
STUCK_SECONDS = 60.0  # in hand of a worker that lives: a batch gives up after 20
MAX_PAUSE_SECONDS = 10.0  # of a lane that is not applied while the others of its queue are
HELD_SECONDS = 5.0  # of a lane that no worker of an older version may be sent; keys are read every 10 s
HALTED_RETRY_SECONDS = 5.0  # how often a broken deployment is asked whether it was mended


class Resend(Enum):
    """Why a lane is sent again."""

    OVERTAKEN = "a later message of its queue was applied"
    SILENT = "the lane stands still, and its message is neither in the list nor in hand"
    STUCK = "a worker has the lane's message in hand for too long"
    HALTED = "the queue is halted: its head is tried again"
    WIPED = "Redis was wiped"


class QueueBuffer:
    """What of one queue is unsent, and this bridge's messages to it that are not applied yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.halted = False
        # Lanes with unsent records, in turns: a dict keeps their order.
        self._ready: dict[Lane, None] = {}
        # Lanes that are refused again and again → when one message of each is sent as a trial.
        self._paused: dict[Lane, float] = {}
        self._messages: deque[MessageInFlight] = deque()  # oldest first
        self._ask_at = self._look_at = -math.inf
        self._settled = 0
        self._oldest_at = math.inf
        self._added_at = -math.inf
        self._sent_at = -math.inf

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

    def needs_list(self, now: float) -> bool:
        """Returns True if anything below depends on what is on the queue's list."""
        self._end_pauses(now)
        if self.halted:
            return now - self._sent_at >= HALTED_RETRY_SECONDS
        if not self._ready or now < self._ask_at or self._count_unapplied() >= MAX_MESSAGES:
            return False
        return now - self._oldest_at >= EAGER_SECONDS or self._is_full()

    def is_due(self, now: float, waiting: Waiting | None) -> bool:
        """The gate: whether the next message goes now. Nothing goes onto a list that is not known."""
        self._end_pauses(now)
        if not self._ready or waiting is None:
            return False
        if self.halted:
            return not waiting.messages and now - self._sent_at >= HALTED_RETRY_SECONDS
        unapplied = self._count_unapplied()
        if unapplied >= MAX_MESSAGES:
            return False
        if waiting.messages >= SHORT_MESSAGES:
            self._ask_at = now + LONG_SECONDS
        # A bridge without a message there gets past the others, which would keep the list at its bound.
        bounds = 1 if unapplied else 2
        if waiting.messages >= bounds * MAX_MESSAGES or waiting.bytes >= bounds * MAX_BYTES:
            return False
        if self._is_full():
            return True
        age = now - self._oldest_at
        if not waiting.messages:
            return age >= EAGER_SECONDS
        # On a long list a small message waits and grows.
        return age >= PATIENT_SECONDS and (waiting.messages < SHORT_MESSAGES or not unapplied)

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

    def note_sent(self, batch: OutgoingBatch, now: float, message_id: str) -> None:
        """The batch, just cut, is in flight as this message."""
        for lane, part, used in batch.parts:
            lane.note_sent(len(part.records), used, now)
            del self._ready[lane]
            if lane.unsent and not lane.is_refused:
                self._ready[lane] = None
        # How old the rest is is not known, only how young it may be.
        self._oldest_at = self._added_at if self._ready else math.inf
        self._messages.append(MessageInFlight(message_id, {lane: part.last for lane, part, _ in batch.parts}))
        self._sent_at = now

    def resend_overtaken(self, now: float) -> dict[Lane, Resend]:
        """After lanes advanced: forgets messages that are done, and rewinds the lanes that were overtaken.

        A message counts as seen by a worker when one of its slices is applied; whatever of it, or of an
        earlier one, is not applied by then was lost or came in the wrong order.
        """
        seen = 0
        for number, message in enumerate(self._messages, start=1):
            if any(lane.applied >= end for lane, end in message.ends.items()):
                seen = number
        overtaken: dict[Lane, Resend] = {}
        for _ in range(seen):
            for lane, end in self._messages.popleft().ends.items():
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

    def needs_search(self, now: float) -> bool:
        """Returns True if a lane stands still for longer than its patience: its message is searched for."""
        if self.halted or now < self._look_at:
            return False
        found = bool(self._overdue_lanes(now))
        if not found:
            self._look_at = now + LOOK_SECONDS / 4
        return found

    def note_settled(self) -> None:
        """Progress was read, and all lanes know of it."""
        self._settled += 1

    def resend_halted(self, now: float, waiting: Waiting | None) -> dict[Lane, Resend]:
        """Rewinds a halted queue whose list is empty, so that its head is tried again."""
        due = self.halted and now - self._sent_at >= HALTED_RETRY_SECONDS
        if not due or waiting is None or waiting.messages:
            return {}
        return self._resend(dict.fromkeys(self._first_messages(), Resend.HALTED))

    def resend_lost(self, now: float, found: Whereabouts) -> dict[Lane, Resend]:
        """Rewinds the lanes whose overdue message was not found twice, or is in hand for too long."""
        self._look_at = now + LOOK_SECONDS
        reasons: dict[Lane, Resend] = {}
        for lane, message in self._overdue_lanes(now):
            if message.id in found.in_hand:
                message.missing_at = None
                message.in_hand_since = min(message.in_hand_since, now)
                if now - message.in_hand_since >= STUCK_SECONDS:
                    reasons[lane] = Resend.STUCK
            elif message.id in found.on_list:
                message.missing_at = None
            elif message.missing_at is None:
                # Perhaps it was applied a moment ago: the next reading of progress shows that.
                message.missing_at = self._settled
                self._look_at = now + LOOK_AGAIN_SECONDS
            elif message.missing_at < self._settled:
                reasons[lane] = Resend.SILENT
        for lane in reasons:
            lane.refusals += 1
        return self._resend(reasons)

    def _resend(self, reasons: dict[Lane, Resend]) -> dict[Lane, Resend]:
        for lane in reasons:
            lane.patience_seconds = min(2 * lane.patience_seconds, MAX_PATIENCE_SECONDS)
            self.rewind(lane)
        return reasons

    def rewind(self, lane: Lane) -> None:
        """The lane's unapplied records are unsent, and urgent."""
        self._unsend(lane)
        lane.rewind()
        if lane.unsent:
            self._ready[lane] = None
            self._oldest_at = -math.inf

    def rewind_all(self) -> int:
        """As `rewind`, of every lane in flight; how many."""
        lanes = list(self._first_messages())
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
        for message in self._messages:
            message.ends.pop(lane, None)
        self._messages = deque(message for message in self._messages if message.ends)

    def _first_messages(self) -> dict[Lane, MessageInFlight]:
        """Of each lane in flight the message with its first unapplied record."""
        found: dict[Lane, MessageInFlight] = {}
        for message in self._messages:
            for lane, end in message.ends.items():
                if lane.sent and lane.applied < end:
                    found.setdefault(lane, message)
        return found

    def _overdue_lanes(self, now: float) -> list[tuple[Lane, MessageInFlight]]:
        return [
            (lane, message)
            for lane, message in self._first_messages().items()
            if now - lane.waiting_since >= lane.patience_seconds
        ]

    def _count_unapplied(self) -> int:
        # A refused lane has one message at most, which takes no place away from the others.
        return sum(not all(lane.is_refused for lane in message.ends) for message in self._messages)

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
