"""A simulation of bridges that share queues with slow workers. Only the test causes failures.

`SendLoop` and `Inflight` are real. Time advances in steps. Each queue has one worker, which needs the same
time for each message.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import cycle
from random import Random

from sluice.bridge.bridge_metrics import BridgeMetrics
from sluice.bridge.inflight import Inflight
from sluice.bridge.publisher import Probe
from sluice.bridge.queue_state import Waiting, Whereabouts
from sluice.bridge.send_loop import SendLoop
from sluice.db.delivery.progress import Assignment
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.task_sender import Sent
from tests.simulation.simulated_services import Message

STEP_SECONDS = 0.05
KEYS = 97


class QueueSimulation:
    """`rates`: records per second of each bridge. `work_seconds`: time of a worker for one message."""

    def __init__(
        self, rates: Sequence[float], *, partitions: int = 6, queues: int = 2, work_seconds: float
    ) -> None:
        self.now = 0.0
        self.queues = [f"e.{number}" for number in range(queues)]
        self.lists: dict[str, deque[Message]] = {queue: deque() for queue in self.queues}
        self.in_hand: dict[str, tuple[float, Message]] = {}
        self.applied: dict[tuple[Place, str], int] = {}
        self.done: Counter[int] = Counter()
        """Maps a bridge to the number of its applied records."""
        self.read: Counter[int] = Counter()
        self.published: Counter[int] = Counter()
        """Maps a number of records to the number of messages with so many records."""
        self.longest = 0
        self._rates, self._partitions, self._work_seconds = rates, partitions, work_seconds
        self._due = [0.0] * len(rates)
        self._keys = cycle(b"key-%d" % number for number in range(KEYS))
        self._bridges = [self._new_bridge(number) for number in range(len(rates))]

    @property
    def published_records(self) -> int:
        """The number of published records. A record that is published twice counts twice."""
        return sum(records * messages for records, messages in self.published.items())

    def run(self, seconds: float, harm: Callable[[], object] = lambda: None) -> None:
        """Produces records for `seconds`. Calls `harm` in every step."""
        for step in range(round(seconds / STEP_SECONDS)):
            self._produce()
            self._step(step)
            harm()

    def settle(self, seconds: float) -> bool:
        """Runs without new records. Returns True if all records are applied within `seconds`."""
        for step in range(round(seconds / STEP_SECONDS)):
            if self.done == self.read:
                return True
            self._step(step)
        return False

    def lose_one(self, rng: Random) -> None:
        """Removes a message from a list, or the message that a worker is processing."""
        queue = rng.choice(self.queues)
        if rng.random() < 0.5 and self.lists[queue]:
            del self.lists[queue][rng.randrange(len(self.lists[queue]))]
        else:
            self.in_hand.pop(queue, None)

    def publish(self, queue: str, slices: list[Slice]) -> Sent:
        """See Publisher."""
        message = Message(queue, slices, f"m{self.published.total()}")
        self.published[sum(len(part.records) for part in slices)] += 1
        self.lists[queue].append(message)
        self.longest = max(self.longest, len(self.lists[queue]))
        return Sent(message.id, 1, len(self.lists[queue]))

    def probe(self, queues: Sequence[str], searched: Sequence[str]) -> Probe:
        """See Publisher."""
        return Probe(
            {queue: Waiting(len(self.lists[queue]), 1) for queue in queues},
            {queue: self._find(queue) for queue in searched},
            "sentinel",
        )

    def _find(self, queue: str) -> Whereabouts:
        held = [self.in_hand[queue][1].id] if queue in self.in_hand else []
        return Whereabouts(frozenset(message.id for message in self.lists[queue]), frozenset(held))

    def _step(self, step: int) -> None:
        self.now += STEP_SECONDS
        for inflight, loop in self._bridges:
            if step % 2 == 0:
                read = {place: self._assignment(place) for place in inflight.partitions}
                loop.note_resent(inflight.settle(read, self.now)[1])
            loop.send_due(self.now)
        for queue in self.queues:
            self._work(queue)

    def _produce(self) -> None:
        for number, rate in enumerate(self._rates):
            self._due[number] += rate * STEP_SECONDS
            while self._due[number] >= 1:
                self._due[number] -= 1
                count = self.read[number]
                place = (f"t{number}", count % self._partitions)
                record = Record(count // self._partitions, 0, next(self._keys), b"v", [])
                self._bridges[number][0].take(place, [record], self.now)
                self.read[number] += 1

    def _work(self, queue: str) -> None:
        if queue in self.in_hand and self.in_hand[queue][0] <= self.now:
            self._apply(self.in_hand.pop(queue)[1])
        if queue not in self.in_hand and self.lists[queue]:
            self.in_hand[queue] = (self.now + self._work_seconds, self.lists[queue].popleft())

    def _apply(self, message: Message) -> None:
        for part in message.slices:
            lane = ((part.topic, part.partition), message.queue)
            before = self.applied.get(lane, -1)
            if part.prev <= before < part.last:
                self.applied[lane] = part.last
                self.done[int(part.topic[1:])] += sum(record.offset > before for record in part.records)

    def _assignment(self, place: Place) -> Assignment:
        applied = {queue: offset for (of, queue), offset in self.applied.items() if of == place}
        return Assignment("id", "e", 1, len(self.queues), 1, 0, applied)

    def _new_bridge(self, number: int) -> tuple[Inflight, SendLoop]:
        inflight = Inflight(max_bytes=10**9, max_span=10**9)
        for partition in range(self._partitions):
            place = (f"t{number}", partition)
            inflight.start(place, self._assignment(place), 0)
        return inflight, SendLoop(self, inflight, BridgeMetrics())
