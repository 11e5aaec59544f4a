"""Decides when records of a queue are sent and resent. Pure: time and the state of Redis are arguments."""

import math
from collections import deque

from sluice.bridge.lanes import HELD_SECONDS, MAX_PATIENCE_SECONDS, MAX_PAUSE_SECONDS, Lane
from sluice.bridge.queue_messages import (
    LOOK_AGAIN_SECONDS,
    LOOK_SECONDS,
    STUCK_SECONDS,
    Due,
    MessageInFlight,
    OutgoingBatch,
    Resend,
    cut_batch,
)
from sluice.bridge.queue_pace import PATIENT_SECONDS, QueuePace
from sluice.bridge.queue_state import Waiting, Whereabouts

# Limits of a message. With fewer records, an event costs more; with more records, nothing is saved.
FULL_RECORDS = 500
FULL_BYTES = 512 * 1024  # a few messages must not fill Redis
# The most on a queue's list: enough for a busy worker, and few are lost if Redis loses its data.
MAX_MESSAGES = 8
MAX_BYTES = 6 * 1024 * 1024  # the most on a queue's list, as Redis stores it: MAX_MESSAGES full messages
SHORT_MESSAGES = 2  # a list with this many messages is long enough; more small messages would only wait
LONG_SECONDS = 0.030  # the time between reads of a list's length while the list is not short
HALTED_RETRY_SECONDS = 5.0  # the time between attempts of a halted queue


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
        self._overdue_at = math.inf  # no lane is overdue before this time
        self._settled = 0
        self._oldest_at = math.inf
        self._added_at = -math.inf
        self._sent_at = -math.inf
        self._pace = QueuePace()

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
        if now < self._ask_at:
            return False
        if self.halted:
            return self._may_retry_halted(now) and bool(self._ready or self._messages)
        if not self._ready or self._count_unapplied() >= MAX_MESSAGES:
            return False
        return now >= self._eager_at() or self._is_full()

    def due_at(self) -> Due:
        """Returns the first times at which `needs_list` or `needs_search` can be True without a change."""
        must = min(self._paused.values(), default=math.inf)
        if self.halted:
            retry_at = max(self._ask_at, self._sent_at + HALTED_RETRY_SECONDS)
            return Due(math.inf, math.inf, min(must, retry_at if self._ready or self._messages else math.inf))
        if self._messages:
            must = min(must, max(self._look_at, self._overdue_at))
        if not self._ready or self._count_unapplied() >= MAX_MESSAGES:
            return Due(math.inf, math.inf, must)
        if self._is_full():
            return Due(math.inf, math.inf, min(must, self._ask_at))
        eager = max(self._ask_at, self._eager_at())
        return Due(eager, max(eager, self._oldest_at + PATIENT_SECONDS), must)

    def note_list(self, waiting: Waiting) -> None:
        """Notes the list as it was read, before more is sent."""
        if not self._is_full():
            self._pace.note_list(waiting.messages)

    def note_asked(self, now: float, pause_seconds: float) -> None:
        """Notes that the list was read. It is not read again within the pause."""
        self._ask_at = max(self._ask_at, now + pause_seconds)

    def is_due(self, now: float, waiting: Waiting | None, *, is_crowded: bool = False) -> bool:
        """Returns True if the next message may be sent now; False if the state of the list is unknown.

        `is_crowded`: workers are busy with many queues, so one message on the list is enough.
        """
        self._end_pauses(now)
        if not self._ready or waiting is None:
            return False
        if self.halted:
            return not waiting.messages and self._may_retry_halted(now)
        unapplied = self._count_unapplied()
        if unapplied >= MAX_MESSAGES:
            return False
        is_long = waiting.messages >= (1 if is_crowded else SHORT_MESSAGES)
        if is_long:
            self._ask_at = now + LONG_SECONDS
        # A bridge without a message on the list may exceed the limit, or others could keep it from sending.
        bounds = 1 if unapplied else 2
        if waiting.messages >= bounds * MAX_MESSAGES or waiting.bytes >= bounds * MAX_BYTES:
            return False
        if self._is_full():
            return True
        if not waiting.messages:
            return now >= self._eager_at()
        # While the list is long, a small message is not sent, and gets more records.
        return now >= self._oldest_at + PATIENT_SECONDS and not (is_long and unapplied)

    def cut(self) -> OutgoingBatch:
        """Returns the next message. Changes nothing until `note_sent`."""
        return cut_batch(self.name, self._ready, FULL_RECORDS, FULL_BYTES)

    def hold_back(self, lane: Lane, now: float) -> None:
        """Pauses a lane that cannot be sent now. The pause takes HELD_SECONDS. The other lanes continue."""
        self._ready.pop(lane, None)
        self._paused[lane] = now + HELD_SECONDS

    def note_sent(self, batch: OutgoingBatch, now: float, message_id: str) -> None:
        """Notes that the batch returned by `cut` is in flight as this message."""
        for lane, part, used in batch.parts:
            lane.note_sent(len(part.records), used, now)
            self._overdue_at = min(self._overdue_at, lane.overdue_at())
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
        """Returns True if a message must be searched for: its lane made no progress within its patience."""
        if self.halted or now < max(self._look_at, self._overdue_at):
            return False
        self._overdue_at = min(map(Lane.overdue_at, self._first_messages()), default=math.inf)
        return now >= self._overdue_at

    def note_settled(self) -> None:
        """Notes that the progress in Postgres was read, and that all lanes were advanced."""
        self._settled += 1

    def resend_halted(self, now: float, waiting: Waiting | None) -> dict[Lane, Resend]:
        """If the queue is halted and its list is empty, marks all records as unsent, to retry the first."""
        if not (self.halted and self._may_retry_halted(now)) or waiting is None or waiting.messages:
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
                # It may have been applied a moment ago. The next reading of the progress would show that.
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
        if lane.sent:
            self._overdue_at = min(self._overdue_at, lane.overdue_at())
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
        found = self._first_messages().items()
        return [(lane, message) for lane, message in found if now >= lane.overdue_at()]

    def _eager_at(self) -> float:
        return max(self._oldest_at, self._sent_at + self._pace.seconds)

    def _may_retry_halted(self, now: float) -> bool:
        return now >= self._sent_at + HALTED_RETRY_SECONDS

    def _count_unapplied(self) -> int:
        # The one message in flight of a refused lane does not count for the limit of the queue.
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
