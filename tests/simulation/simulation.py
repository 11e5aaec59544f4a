"""A simulation in one thread: two bridges run their real loops. A log and services may fail at any time.

Kafka, Postgres and Redis are simulated; `Bridge`, its pure parts and the guard are real. Each step is
checked at once against the log: every applied slice must contain exactly the next records of its lane, and
every record below a watermark must be applied.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import cast

from sluice.bridge.bridge_metrics import BridgeMetrics
from sluice.bridge.log_watch import LogWatch
from sluice.bridge.loop import Bridge
from sluice.bridge.topic_stops import BridgeStopped
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from sluice.tasks.apply.guard import Judgement, first_unapplied, judge
from sluice.tasks.events.routing import queue_name, shard_of
from tests.simulation.simulated_kafka import Consumer, Watch
from tests.simulation.simulated_services import (
    PACES,
    PLACES,
    QUIET_TURNS,
    TOPICS,
    Broken,
    Crash,
    Message,
    Postgres,
    ProgressStore,
    Publisher,
    WatchedInflight,
)


@dataclass(frozen=True)
class Shell:
    """The parts that a mutant replaces."""

    bridge: type[Bridge] = Bridge
    store: type[ProgressStore] = ProgressStore
    judge: Callable[..., Judgement] = judge


class Simulation:
    """Two bridges and their services. One seed determines everything that happens."""

    def __init__(self, seed: int, shell: Shell) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.shell = shell
        self.now = 0.0
        self.chaos = True
        self.pg = Postgres()
        self.older: list[Postgres] = []
        self.log: dict[Place, list[Record]] = {place: [] for place in PLACES}
        self.ends: dict[Place, int] = dict.fromkeys(PLACES, 0)
        self.committed: dict[Place, int] = {}
        self.lists: dict[str, list[Message]] = {}
        self.in_hand: list[Message] = []
        """The messages that running workers hold."""
        self.sent: list[Message] = []
        self.sentinel = 0
        self.epochs = 1
        self.shards_of = {1: 2}
        self.happenings: tuple[Callable[[], None], ...] = (
            lambda: self.turn(self.rng.randrange(2)),
            self.work,
            self.produce,
            self.surface,
            self.lose_message,
            self.rebalance,
            lambda: self.crash(self.rng.randrange(2)),
            self.wipe,
            self.remember,
            self.move_back,
            self.reroute,
            self.halt_or_mend,
            self.pause_or_resume,
        )
        # Each seed has its own weights. Some events never happen, so that other events have more time.
        moods = [1.0] * 3 + self.rng.choices((0.0, 0.2, 1.0, 2.0), k=10)
        self.weights = [
            mood * weight
            for mood, weight in zip(moods, (60, 40, 14, 6, 4, 3, 1.5, 1, 4, 2, 2, 1, 1), strict=True)
        ]
        self.steps = self.rng.choice(PACES)
        self.consumers = [Consumer(self), Consumer(self)]
        self.stores: dict[int, ProgressStore] = {}
        self.bridges = [self._new_bridge(0), self._new_bridge(1)]
        self.rebalance()

    def run(self, turns: int) -> None:
        """Runs `turns` random events. Then runs without failures until all is applied. Raises Broken."""
        for _ in range(turns):
            self.event()
        self.chaos = False
        self.pg.halted.clear()
        self.pg.paused = False
        for place in PLACES:
            for consumer in self.consumers:
                consumer.lose(place)
            self.rng.choice(self.consumers).gain(place)
        for _ in range(QUIET_TURNS):
            self.turn(self.rng.randrange(2))
            self.work()
            if all(self.pg.watermarks.get(place) == self.end(place) for place in PLACES):
                break
        else:
            raise Broken(f"{self}: the watermarks are {self.pg.watermarks}, the logs end at {self.ends}")
        for place in PLACES:
            if self.pg.applied[place] != {record.offset for record in self.log[place]}:
                raise Broken(f"{self}: the watermark of {place} is at the end, but not all is applied")

    def event(self) -> None:
        """Runs the next random event."""
        self.rng.choices(self.happenings, self.weights)[0]()

    def meanwhile(self) -> None:
        """Runs, between two statements of a bridge, events that the bridge does not cause."""
        if self.unlucky(0.5):
            self.rng.choices(self.happenings[1:], self.weights[1:])[0]()

    def turn(self, number: int) -> None:
        """Runs one turn of a bridge's loop."""
        self.now += self.rng.choice(self.steps if self.chaos else (0.05, 0.3))
        try:
            self.bridges[number].run_once()
        except Crash:
            self.crash(number)
        except BridgeStopped as error:
            # The simulated log loses no records, so a bridge must never stop.
            raise Broken(f"{self}: {error}") from error

    def work(self) -> None:
        """Takes a message, usually the oldest one, and applies it now or later, as a worker does."""
        if self.in_hand and not self.unlucky(0.5):
            self.apply(self.in_hand.pop(0))
            return
        waiting = [messages for messages in self.lists.values() if messages]
        if waiting:
            messages = self.rng.choice(waiting)
            message = messages.pop(self.rng.randrange(len(messages)) if self.unlucky(0.2) else 0)
            if self.unlucky(0.1):
                self.in_hand.append(message)
            else:
                self.apply(message)

    def apply(self, message: Message) -> None:
        """Runs the part of the apply transaction that concerns the guard."""
        queue, slices, _ = message
        if queue in self.pg.halted or self.unlucky(0.05):
            return
        for part in slices:
            place = (part.topic, part.partition)
            lane = (place, queue, part.epoch)
            applied = self.pg.lanes.get(lane, -1)
            epoch = self.pg.epoch if self.pg.registered else None
            judgement = self.shell.judge(
                epoch=part.epoch, prev=part.prev, last=part.last, current_epoch=epoch, applied_offset=applied
            )
            if judgement is Judgement.NEXT:
                offsets = [record.offset for record in part.records]
                self.check_slice(place, queue, applied, offsets[first_unapplied(offsets, applied) :])
                self.pg.lanes[lane] = part.last

    def check_slice(self, place: Place, queue: str, applied: int, offsets: list[int]) -> None:
        """Checks that the slice contains exactly the next records of its lane in this epoch."""
        epoch = self.pg.epoch
        start = self.pg.epoch_starts[place, epoch]
        expected = [
            record.offset
            for record in self.log[place]
            if max(start, applied + 1) <= record.offset <= offsets[-1]
            and queue_name("e", shard_of(record.key, self.shards_of[epoch])) == queue
        ]
        if offsets != expected:
            raise Broken(
                f"{self}: {place} {queue} after {applied}: applied {offsets}, the log has {expected}"
            )
        self.pg.applied[place].update(offsets)

    def check_watermark(self, place: Place) -> None:
        """Checks that every record below the watermark is applied."""
        watermark = self.pg.watermarks[place]
        for record in self.log[place]:
            if record.offset < watermark and record.offset not in self.pg.applied[place]:
                raise Broken(f"{self}: {place} has watermark {watermark}, but {record.offset} is not applied")

    def produce(self) -> None:
        """Appends records. There are gaps between their offsets, as after compaction and in transactions."""
        place = self.rng.choice(PLACES)
        for _ in range(self.rng.randrange(1, 8)):
            offset = self.ends[place] + self.rng.choice((0, 0, 0, 1, 5))
            self.log[place].append(Record(offset, 0, b"key-%d" % self.rng.randrange(12), b"v", []))
            self.ends[place] = offset + 1
        self.ends[place] += self.rng.choice((0, 0, 2))

    def surface(self) -> None:
        """Applies any message that was sent before, as if it were delivered again."""
        if self.sent:
            self.apply(self.rng.choice(self.sent))

    def lose_message(self) -> None:
        """Removes a message from a list, or the messages that a worker holds."""
        if self.in_hand and self.unlucky(0.3):
            self.in_hand.clear()
        waiting = [messages for messages in self.lists.values() if messages]
        if waiting:
            messages = self.rng.choice(waiting)
            del messages[self.rng.randrange(len(messages))]

    def wipe(self) -> None:
        self.lists.clear()
        self.sentinel += 1

    def rebalance(self) -> None:
        """Assigns a partition to one bridge. The other bridge may not notice that it lost the partition."""
        place = self.rng.choice(PLACES)
        new, old = self.rng.sample(self.consumers, 2)
        new.gain(place)
        if not self.unlucky(0.3):
            old.lose(place)

    def crash(self, number: int) -> None:
        """Replaces a bridge by a new bridge that has the same partitions, but no state in memory."""
        places = list(self.consumers[number].positions)
        self.consumers[number] = Consumer(self)
        self.bridges[number] = self._new_bridge(number)
        for place in places:
            self.consumers[number].gain(place)

    def remember(self) -> None:
        self.older.append(deepcopy(self.pg))

    def move_back(self) -> None:
        """Restores an older state of Postgres."""
        if self.older:
            self.older = self.older[: self.rng.randrange(len(self.older)) + 1]
            self.pg = deepcopy(self.older[-1])

    def reroute(self) -> None:
        """Changes the number of shards. Records in flight prevent half of the attempts."""
        drained = all(
            self.pg.watermarks.get(place, 0) > max([-1, *self.pg.assignment(place).applied.values()])
            for place in PLACES
        )
        if not self.pg.registered or not (drained or self.unlucky(0.5)):
            return
        self.epochs += 1
        self.pg.epoch, self.pg.shards = self.epochs, self.rng.choice((1, 2, 3))
        self.shards_of[self.epochs] = self.pg.shards
        for place, watermark in self.pg.watermarks.items():
            self.pg.epoch_starts[place, self.epochs] = watermark

    def halt_or_mend(self) -> None:
        if self.pg.halted:
            self.pg.halted.clear()
        else:
            self.pg.halted.add(queue_name("e", self.rng.randrange(self.pg.shards)))

    def pause_or_resume(self) -> None:
        self.pg.paused = not self.pg.paused

    def crash_perhaps(self) -> None:
        if self.unlucky(0.005):
            raise Crash

    def unlucky(self, chance: float) -> bool:
        """Returns True with probability `chance`, but never in the quiet phase at the end."""
        return self.chaos and self.rng.random() < chance

    def end(self, place: Place) -> int:
        return self.ends[place]

    def __str__(self) -> str:
        return f"seed {self.seed} at {self.now:.3f} s"

    def _new_bridge(self, number: int) -> Bridge:
        store = self.stores[number] = self.shell.store(self)
        return self.shell.bridge(
            make_consumer=lambda _: self.consumers[number],
            store=store,
            publisher=Publisher(self),
            topics=TOPICS,
            # The limits are small, so that partitions are often paused and resumed.
            inflight=WatchedInflight(store, max_bytes=20_000, max_span=120),
            metrics=BridgeMetrics(),
            watch=cast("LogWatch", Watch(store)),
            clock=lambda: self.now,
            sleep=lambda _: None,
        )
