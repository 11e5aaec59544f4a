"""A world in one thread: the real loop of two bridges, a log, and everything around them that can go wrong.

Kafka, Postgres and Redis are simulated; `Bridge`, its pure parts and the judgement are the real ones. What
is checked is checked at once, against the log: every applied slice must be exactly the lane's next records,
and every record below a watermark must be applied.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random

from bridge.assignment import LogRange
from bridge.consumer import TopicFacts
from bridge.doorbell import DoorbellAway, Probe
from bridge.holdings import Holdings, Watermarks
from bridge.loop import Bridge
from bridge.store import Progress, StoreAway
from db.progress import Assignment, Place, TopicStart
from tasks.api import Entity, Topic
from tasks.guard import Judgement, first_unapplied, judge
from tasks.routing import queue_name, shard_of
from tasks.wire import Record, Slice

TOPIC, TOPIC_ID = "t", "id-1"
PARTITIONS = (0, 1)
PLACES: tuple[Place, ...] = tuple((TOPIC, number) for number in PARTITIONS)
TOPICS = {TOPIC: Topic(TOPIC, Entity("e", shards=2))}
QUIET_TURNS = 4_000

# Seconds between turns: as in life, with pauses long enough for a watermark, and wild.
PACES = ((0.001, 0.01, 0.02), (0.005, 0.02, 0.03, 0.03, 0.03, 1.1), (0.001, 0.01, 0.05, 0.12, 0.3, 1.2))


class Broken(AssertionError):
    """A promise was broken; the message says which, where and in which world."""


class Crash(Exception):
    """The process of a bridge ends here."""


@dataclass
class Postgres:
    """Its state: copied for a snapshot, replaced to move it back."""

    registered: bool = False
    epoch: int = 1
    shards: int = 2
    watermarks: dict[Place, int] = field(default_factory=dict)
    lanes: dict[tuple[Place, str, int], int] = field(default_factory=dict)
    halted: set[str] = field(default_factory=set)
    paused: bool = False
    """Whether an operator paused the topic."""
    epoch_starts: dict[tuple[Place, int], int] = field(default_factory=dict)
    """Where the lanes of an epoch began: what is below was applied before it."""
    applied: dict[Place, set[int]] = field(default_factory=lambda: {place: set() for place in PLACES})

    def assignment(self, place: Place, lanes: Mapping[str, int] | None = None) -> Assignment:
        own = {q: o for (p, q, epoch), o in self.lanes.items() if p == place and epoch == self.epoch}
        return Assignment(
            TOPIC_ID,
            "e",
            self.epoch,
            self.shards,
            self.epoch if place in self.watermarks else None,
            self.watermarks.get(place),
            own if lanes is None else lanes,
        )


class Store:
    """Postgres as one bridge reaches it."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.paused: bool | None = None
        """What the bridge was told last of the topic."""
        self.paused_turns = 0
        """Turns it began with being told that the topic is paused."""

    def read_assignments(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        self._reach()
        return self._read(places)

    def register_topic(self, start: TopicStart) -> None:
        self._reach()
        pg = self.world.pg
        for number, offset in start.starts.items():
            place = (start.topic, number)
            if pg.watermarks.setdefault(place, 0 if pg.registered else offset) == 0:
                pg.epoch_starts.setdefault((place, pg.epoch), 0)
        pg.registered = True

    def read_progress(self, places: Iterable[Place]) -> Progress:
        self._reach()
        return self._progress(places)

    def settle_progress(self, places: Iterable[Place], decide: Callable[[Progress], Watermarks]) -> None:
        self._reach()
        pg, epoch = self.world.pg, self.world.pg.epoch
        watermarks = decide(self._progress(places))
        self.world.meanwhile()
        # A failover ends the transaction; one snapshot cannot update what a re-routing updated.
        if self.world.pg is not pg or pg.epoch != epoch:
            raise StoreAway("simulated: the transaction failed")
        self._write(watermarks)

    def claim_instance(self) -> int:
        self._reach()
        return 0

    def keep_instance(self, instance: int) -> bool:
        return True

    def _progress(self, places: Iterable[Place]) -> Progress:
        pg = self.world.pg
        self.paused = pg.paused
        return Progress(self._read(places), frozenset(pg.halted), frozenset([TOPIC] if pg.paused else []))

    def _read(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        pg = self.world.pg
        return {place: pg.assignment(place) for place in places} if pg.registered else {}

    def _write(self, watermarks: Watermarks) -> None:
        pg = self.world.pg
        for place, (epoch, watermark) in watermarks.items():
            if epoch == pg.epoch and place in pg.watermarks and watermark > pg.watermarks[place]:
                pg.watermarks[place] = watermark
                self.world.check_watermark(place)
        self.world.crash_perhaps()

    def _reach(self) -> None:
        self.world.crash_perhaps()
        if self.world.unlucky(0.03):
            raise StoreAway("simulated")


class WatchedHoldings(Holdings):
    """Holds nothing of a paused topic, from the turn after the one in which that was read."""

    def __init__(self, store: Store, *, max_bytes: int, max_span: int) -> None:
        super().__init__(max_bytes=max_bytes, max_span=max_span)
        self._store = store

    def take(self, place: Place, records: list[Record], now: float) -> None:
        """What was polled before the pause took hold is still taken."""
        store = self._store
        if place in self.partitions and records and (store.paused is None or store.paused_turns > 1):
            raise Broken(f"{store.world}: {place} is read although paused ({store.paused})")
        super().take(place, records, now)


class Doorbell:
    """Redis as one bridge reaches it."""

    def __init__(self, world: "World") -> None:
        self.world = world

    def publish(self, queue: str, slices: list[Slice]) -> None:
        world = self.world
        world.crash_perhaps()
        if world.unlucky(0.03):
            raise DoorbellAway("simulated: not arrived")
        world.sent.append((queue, slices))
        if not world.unlucky(0.08):
            world.lists.setdefault(queue, []).append((queue, slices))
        if world.unlucky(0.03):
            raise DoorbellAway("simulated: arrived, but who knows")
        world.crash_perhaps()

    def probe(self, queues: Sequence[str]) -> Probe:
        world = self.world
        if world.unlucky(0.02):
            raise DoorbellAway("simulated")
        return Probe({queue: len(world.lists.get(queue, ())) for queue in queues}, str(world.sentinel))


class Consumer:
    """A member of the group. What it has may also be another's: groups notice late."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.positions: dict[Place, int] = {}
        self.changes: set[Place] = set()
        self._paused: frozenset[Place] = frozenset()

    def gain(self, place: Place) -> None:
        """Comes back with an old position, or with what was committed: never with the right one."""
        rng = self.world.rng
        self.positions[place] = rng.choice(
            [rng.randrange(self.world.end(place) + 1), self.world.committed.get(place, 0)]
        )
        self.changes.add(place)

    def lose(self, place: Place) -> None:
        self.positions.pop(place, None)
        self.changes.add(place)

    def poll(self, timeout_seconds: float) -> dict[Place, list[Record]]:
        if self.world.unlucky(0.05):
            self.world.rebalance()
        polled = {}
        for place, position in self.positions.items():
            if place in self._paused:
                continue
            log = [record for record in self.world.log[place] if record.offset >= position]
            count = self.world.rng.randrange(1, 12)
            if log:
                polled[place] = log[:count]
            self.positions[place] = log[count - 1].offset + 1 if len(log) > count else self.world.end(place)
        # A rebalance during the poll: what was fetched before it is returned all the same.
        if self.world.unlucky(0.05):
            self.world.rebalance()
        return polled

    def take_changes(self) -> frozenset[Place]:
        changes, self.changes = frozenset(self.changes), set()
        return changes

    def assignment(self) -> frozenset[Place]:
        return frozenset(self.positions)

    def seek(self, place: Place, offset: int) -> None:
        if place in self.positions:
            self.positions[place] = offset

    def position(self, place: Place) -> int | None:
        return self.positions.get(place)

    def pause_exactly(self, places: Iterable[Place]) -> None:
        self._paused = frozenset(places)

    def paused(self) -> frozenset[Place]:
        return self._paused & self.positions.keys()

    def log_ranges(self, places: Iterable[Place]) -> dict[Place, LogRange]:
        return {place: LogRange(0, self.world.end(place)) for place in places}

    def topics(self) -> Mapping[str, TopicFacts]:
        return {TOPIC: TopicFacts(TOPIC_ID, len(PARTITIONS))}

    def commit(self, watermarks: Mapping[Place, int]) -> None:
        self.world.committed.update(watermarks)

    def close(self) -> None:
        self.positions.clear()


@dataclass(frozen=True)
class Shell:
    """The parts a mutant replaces."""

    bridge: type[Bridge] = Bridge
    store: type[Store] = Store
    judge: Callable[..., Judgement] = judge


class World:
    """Everything, from one seed."""

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
        self.lists: dict[str, list[tuple[str, list[Slice]]]] = {}
        self.sent: list[tuple[str, list[Slice]]] = []
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
        # Each world has its own mixture, in which some things never happen: others get time to unfold.
        moods = [1.0] * 3 + self.rng.choices((0.0, 0.2, 1.0, 2.0), k=10)
        self.weights = [
            mood * weight
            for mood, weight in zip(moods, (60, 40, 14, 6, 4, 3, 1.5, 1, 4, 2, 2, 1, 1), strict=True)
        ]
        self.steps = self.rng.choice(PACES)
        self.consumers = [Consumer(self), Consumer(self)]
        self.stores: dict[int, Store] = {}
        self.bridges = [self._new_bridge(0), self._new_bridge(1)]
        self.rebalance()

    def play(self, turns: int) -> None:
        """Chaos for so many turns, then quiet until everything is applied. Raises Broken."""
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
            raise Broken(f"{self}: not settled: {self.pg.watermarks} of {self.ends}")
        for place in PLACES:
            if self.pg.applied[place] != {record.offset for record in self.log[place]}:
                raise Broken(f"{self}: {place} is settled, but not all of it is applied")

    def event(self) -> None:
        """The next thing that happens."""
        self.rng.choices(self.happenings, self.weights)[0]()

    def meanwhile(self) -> None:
        """What may happen between two statements of a bridge: anything but its own doing."""
        if self.unlucky(0.5):
            self.rng.choices(self.happenings[1:], self.weights[1:])[0]()

    def turn(self, number: int) -> None:
        """One turn of a bridge's loop."""
        self.now += self.rng.choice(self.steps if self.chaos else (0.05, 0.3))
        store = self.stores[number]
        store.paused_turns = store.paused_turns + 1 if store.paused else 0
        try:
            self.bridges[number].run_once()
        except Crash:
            self.crash(number)

    def work(self) -> None:
        """A worker takes a message: mostly the oldest one."""
        waiting = [messages for messages in self.lists.values() if messages]
        if waiting:
            messages = self.rng.choice(waiting)
            self.apply(*messages.pop(self.rng.randrange(len(messages)) if self.unlucky(0.2) else 0))

    def apply(self, queue: str, slices: list[Slice]) -> None:
        """The apply transaction, or what of it concerns the guard."""
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
        """The slice holds exactly the lane's next records, none of which was applied in this epoch."""
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
        """Every record below the watermark is applied."""
        watermark = self.pg.watermarks[place]
        for record in self.log[place]:
            if record.offset < watermark and record.offset not in self.pg.applied[place]:
                raise Broken(f"{self}: {place} has watermark {watermark}, but {record.offset} is not applied")

    def produce(self) -> None:
        """Records with holes between them, as compaction and transactions leave."""
        place = self.rng.choice(PLACES)
        for _ in range(self.rng.randrange(1, 8)):
            offset = self.ends[place] + self.rng.choice((0, 0, 0, 1, 5))
            self.log[place].append(Record(offset, 0, b"key-%d" % self.rng.randrange(12), b"v", []))
            self.ends[place] = offset + 1
        self.ends[place] += self.rng.choice((0, 0, 2))

    def surface(self) -> None:
        """A message comes again that was sent at any time before."""
        if self.sent:
            self.apply(*self.rng.choice(self.sent))

    def lose_message(self) -> None:
        waiting = [messages for messages in self.lists.values() if messages]
        if waiting:
            messages = self.rng.choice(waiting)
            del messages[self.rng.randrange(len(messages))]

    def wipe(self) -> None:
        self.lists.clear()
        self.sentinel += 1

    def rebalance(self) -> None:
        """A partition goes to one bridge; the other may not know yet."""
        place = self.rng.choice(PLACES)
        new, old = self.rng.sample(self.consumers, 2)
        new.gain(place)
        if not self.unlucky(0.3):
            old.lose(place)

    def crash(self, number: int) -> None:
        """A bridge loses its memory and starts anew; its partitions come back to it."""
        places = list(self.consumers[number].positions)
        self.consumers[number] = Consumer(self)
        self.bridges[number] = self._new_bridge(number)
        for place in places:
            self.consumers[number].gain(place)

    def remember(self) -> None:
        self.older.append(deepcopy(self.pg))

    def move_back(self) -> None:
        """Postgres is another, older one from now on."""
        if self.older:
            self.older = self.older[: self.rng.randrange(len(self.older)) + 1]
            self.pg = deepcopy(self.older[-1])

    def reroute(self) -> None:
        """Another shard count. Half of the time forced: not all of what was read has its outcome."""
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
        """Never in the quiet at the end."""
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
            doorbell=Doorbell(self),
            topics=TOPICS,
            # Small: partitions are paused and resumed all the time.
            holdings=WatchedHoldings(store, max_bytes=20_000, max_span=120),
            clock=lambda: self.now,
            sleep=lambda _: None,
        )
