"""Decides when records of a queue are sent and resent. Pure: time and the state of Redis are arguments."""

import math
from collections import deque
from enum import Enum

from sluice.bridge.lanes import MAX_PATIENCE_SECONDS, Lane
from sluice.bridge.queue_messages import MessageInFlight, OutgoingBatch
from sluice.bridge.queue_state import Waiting, Whereabouts
from sluice.tasks.apply.batch_message import Slice

# Records per message: with fewer records, an event costs more; with more records, nothing is saved.
FULL_RECORDS = 500
# Limit of a message; a few messages must not fill Redis.
FULL_BYTES = 512 * 1024
EAGER_SECONDS = 0.010  # records of an idle queue wait this long for more records
PATIENT_SECONDS = 0.250  # records of a busy queue wait this long, so that there are fewer and fuller messages
# The most on a queue's list: enough for a busy worker, and few are lost if Redis loses its data.
MAX_MESSAGES = 8
MAX_BYTES = 6 * 1024 * 1024  # the most on a queue's list, as Redis stores it: MAX_MESSAGES full messages
SHORT_MESSAGES = 2  # a list with this many messages is long enough; more small messages would only wait
LONG_SECONDS = 0.030  # the time between reads of a list's length while the list is not short
LOOK_SECONDS = 1.0  # the time between searches for a queue's overdue messages
# The time to the next search after a message was not found; progress is read twice as often.
LOOK_AGAIN_SECONDS = 0.2
# If a running worker has had a message for this long, it is sent again; a batch stops after 20 seconds.
STUCK_SECONDS = 60.0
MAX_PAUSE_SECONDS = 10.0  # the longest pause of a lane without progress in a queue whose other lanes advance
# The pause of a lane that older workers cannot read; the list of workers is read every 10 s.
HELD_SECONDS = 5.0
HALTED_RETRY_SECONDS = 5.0  # the time between attempts of a halted queue


class Resend(Enum):
    """The reason why a lane is sent again."""

    OVERTAKEN = "a later message of its queue was applied"
    SILENT = "the lane makes no progress, and its message is neither on the list nor in hand of a worker"
    STUCK = "a worker has had the lane's message in hand for too long"
    HALTED = "the queue is halted: its first records are retried"
    WIPED = "Redis was wiped"


class QueueBuffer:
    """One queue's unsent records, and this bridge's messages to it that are not applied yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.halted = False
        # Lanes with unsent records, in the order in which they are served.
        self._ready: dict[Lane, None] = {}
        # Lanes that are refused repeatedly → the time when one message of the lane is sent to try again.
        self._paused: dict[Lane, float] = {}
        self._messages: deque[MessageInFlight] = deque()  # oldest first
        self._ask_at = self._look_at = -math.inf
        self._settled = 0
        self._oldest_at = math.inf
        self._added_at = -math.inf
        self._sent_at = -math.inf

    @property
    def unapplied_messages(self) -> int:
        """Returns the number of this bridge's messages that are not completely applied."""
        return len(self._messages)

    def note_added(self, lane: Lane, now: float) -> None:
        """Notes that records were added to the lane."""
        if not lane.unsent or self._is_on_trial(lane):
            return
        if not self._ready:
            self._oldest_at = now
        self._ready[lane] = None
        self._added_at = now

    def forget(self, lane: Lane) -> None:
        """Drops the lane, because this bridge no longer reads its partition."""
        self._ready.pop(lane, None)
        self._paused.pop(lane, None)
        self._unsend(lane)

    def needs_list(self, now: float) -> bool:
        """Returns True if a decision depends on the content of the queue's list."""
        self._end_pauses(now)
        if self.halted:
            return now - self._sent_at >= HALTED_RETRY_SECONDS
        if not self._ready or now < self._ask_at or self._count_unapplied() >= MAX_MESSAGES:
            return False
        return now - self._oldest_at >= EAGER_SECONDS or self._is_full()

    def is_due(self, now: float, waiting: Waiting | None) -> bool:
        """Returns True if the next message may be sent now; False if the state of the list is unknown."""
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
        # A bridge without a message on the list may exceed the limit. Otherwise other bridges could keep it
        # from sending.
        bounds = 1 if unapplied else 2
        if waiting.messages >= bounds * MAX_MESSAGES or waiting.bytes >= bounds * MAX_BYTES:
            return False
        if self._is_full():
            return True
        age = now - self._oldest_at
        if not waiting.messages:
            return age >= EAGER_SECONDS
        # While the list is long, a small message is not sent, and gets more records.
        return age >= PATIENT_SECONDS and (waiting.messages < SHORT_MESSAGES or not unapplied)

    def cut(self) -> OutgoingBatch:
        """Returns the next message. It contains records of the lanes in turns, up to two limits.

        The limits are FULL_RECORDS and FULL_BYTES. A record that is larger than FULL_BYTES gets its own
        message.
        """
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
        """Pauses a lane that cannot be sent now. The pause takes HELD_SECONDS. The other lanes continue."""
        self._ready.pop(lane, None)
        self._paused[lane] = now + HELD_SECONDS

    def note_sent(self, batch: OutgoingBatch, now: float, message_id: str) -> None:
        """Notes that the batch returned by `cut` is in flight as this message."""
        for lane, part, used in batch.parts:
            lane.note_sent(len(part.records), used, now)
            del self._ready[lane]
            if lane.unsent and not lane.is_refused:
                self._ready[lane] = None
        # The age of the remaining records is not stored, so they count as old as the newest record.
        self._oldest_at = self._added_at if self._ready else math.inf
        self._messages.append(MessageInFlight(message_id, {lane: part.last for lane, part, _ in batch.parts}))
        self._sent_at = now

    def resend_overtaken(self, now: float) -> dict[Lane, Resend]:
        """Drops messages that workers have processed, and marks the unapplied records in them as unsent.

        Call it after lanes have advanced. If one slice of a message is applied, a worker has processed this
        message and all earlier messages. Their slices that are not applied were lost or arrived in the wrong
        order.
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
                # The lane is paused. Otherwise each message of the queue would include records of this lane.
                self._ready.pop(lane, None)
                self._paused[lane] = now + min(lane.patience_seconds, MAX_PAUSE_SECONDS)
                lane.patience_seconds = min(2 * lane.patience_seconds, MAX_PATIENCE_SECONDS)
        return overtaken

    def needs_search(self, now: float) -> bool:
        """Returns True if a lane has made no progress within its patience.

        Then its message must be searched for.
        """
        if self.halted or now < self._look_at:
            return False
        found = bool(self._overdue_lanes(now))
        if not found:
            self._look_at = now + LOOK_SECONDS / 4
        return found

    def note_settled(self) -> None:
        """Notes that the progress in Postgres was read, and that all lanes were advanced."""
        self._settled += 1

    def resend_halted(self, now: float, waiting: Waiting | None) -> dict[Lane, Resend]:
        """If the queue is halted and its list is empty, marks all records as unsent, to retry the first."""
        due = self.halted and now - self._sent_at >= HALTED_RETRY_SECONDS
        if not due or waiting is None or waiting.messages:
            return {}
        return self._resend(dict.fromkeys(self._first_messages(), Resend.HALTED))

    def resend_lost(self, now: float, found: Whereabouts) -> dict[Lane, Resend]:
        """Marks lanes as unsent if their message is lost, or has been in hand for too long.

        A message counts as lost if two searches did not find it.
        """
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
                # The message may have been applied a moment ago. If so, the next reading of the progress will
                # show that.
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
        """Marks the lane's unapplied records as unsent and due at once."""
        self._unsend(lane)
        lane.rewind()
        if lane.unsent:
            self._ready[lane] = None
            self._oldest_at = -math.inf

    def rewind_all(self) -> int:
        """Marks every lane in flight as unsent. Returns the number of these lanes."""
        lanes = list(self._first_messages())
        for lane in lanes:
            self.rewind(lane)
        return len(lanes)

    def note_applied(self, lane: Lane) -> None:
        """Notes that the lane advanced. The lane may now be empty, and it is no longer refused."""
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
        """Returns for each lane in flight the message that contains the lane's first unapplied record."""
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
        # A refused lane has at most one message in flight. This message does not count for the limit of the
        # queue.
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
