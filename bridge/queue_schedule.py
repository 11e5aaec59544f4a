"""The order in which queues need a decision. Pure: time is an argument.

A turn of the bridge handles only the queues that are due. Therefore a queue in which nothing changes
costs nothing, however many queues there are.
"""

import heapq
import math

from sluice.bridge.queue_buffer import QueueBuffer
from sluice.bridge.queue_pace import PATIENT_SECONDS

# If this many queues have messages of this bridge in flight, the workers have enough to do. Further small
# messages would only wait on their lists, so their records are collected in the buffers for a while.
CROWD_QUEUES = 32
# The wait of crowded queues exceeds PATIENT_SECONDS at most by this factor. It is the number of queues in
# flight, in units of CROWD_QUEUES: the more queues, the fewer records each of them gets per second.
MAX_CROWD_FACTOR = 16.0


class QueueSchedule:
    """The times of the next decisions. Call `touch` after every change of a queue, except by time."""

    def __init__(self) -> None:
        self.in_flight: dict[str, QueueBuffer] = {}
        """The queues with unapplied messages, as of the last `next_at` or `take_due`."""
        self._crowd: set[str] = set()
        """Those of them that are not halted, so that workers apply their messages."""
        self._touched: dict[str, QueueBuffer] = {}
        self._queues: dict[str, QueueBuffer] = {}
        self._eager, self._old, self._must = _Times(), _Times(), _Times()

    def touch(self, queue: QueueBuffer) -> None:
        """Notes that the queue has changed. Idempotent."""
        self._touched[queue.name] = queue

    def next_at(self) -> float:
        """Returns the time of the next decision; infinite if only a change can require one."""
        self._update()
        must_at = min(self._must.first_at(), self._old.first_at() + crowd_seconds(len(self._crowd)))
        return min(must_at, self._eager.first_at()) if self._room() > 0 else must_at

    def take_due(self, now: float) -> list[QueueBuffer]:
        """Returns the queues that need a decision now, the oldest first.

        They count as touched. If the caller makes no decision, for example in an outage, they stay due.
        """
        self._update()
        names = self._must.take_due(now) + self._eager.take_due(now, limit=self._room())
        # Each further message makes the others wait longer, so the crowd grows only with the age of records.
        while self._old.first_at() + crowd_seconds(len(self._crowd) + len(names)) <= now:
            names += self._old.take_due(now, limit=1)
        due = [self._queues[name] for name in dict.fromkeys(names)]
        for queue in due:
            self.touch(queue)
        return due

    @property
    def is_crowded(self) -> bool:
        """True if the workers have enough to do, as of the last `next_at` or `take_due`."""
        return self._room() <= 0

    def _room(self) -> int:
        return CROWD_QUEUES - len(self._crowd)

    def _update(self) -> None:
        touched, self._touched = self._touched, {}
        for name, queue in touched.items():
            if queue.unapplied_messages:
                self.in_flight[name] = queue
            else:
                self.in_flight.pop(name, None)
            if queue.unapplied_messages and not queue.halted:
                self._crowd.add(name)
            else:
                self._crowd.discard(name)
        for name, queue in touched.items():
            self._queues[name] = queue
            due = queue.due_at()
            self._eager.put(name, due.eager)
            self._old.put(name, due.old)
            self._must.put(name, due.must)


def crowd_seconds(in_flight: int) -> float:
    """Returns how long a small message waits beyond PATIENT_SECONDS while `in_flight` queues have messages in
    flight.
    """
    return PATIENT_SECONDS * min(max(in_flight / CROWD_QUEUES - 1.0, 0.0), MAX_CROWD_FACTOR - 1.0)


class _Times:
    """One time per name. A heap, in which entries of replaced times stay until they are first."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def put(self, name: str, at: float) -> None:
        if at == math.inf:
            self._at.pop(name, None)
        elif self._at.get(name) != at:
            self._at[name] = at
            heapq.heappush(self._heap, (at, name))

    def first_at(self) -> float:
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def take_due(self, now: float, limit: float = math.inf) -> list[str]:
        taken: list[str] = []
        while len(taken) < limit and self.first_at() <= now:
            name = heapq.heappop(self._heap)[1]
            del self._at[name]
            taken.append(name)
        return taken
