"""Postgres and Redis as the bridges of one world reach them. They fail at random."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from sluice.bridge.inflight import Inflight, Watermarks
from sluice.bridge.progress_store import Progress, ProgressStoreUnavailable
from sluice.bridge.publisher import Probe, PublisherUnavailable
from sluice.bridge.queue_buffer import MAX_MESSAGES
from sluice.bridge.queue_state import Waiting, Whereabouts
from sluice.db.delivery.partition_reads import PartitionRead
from sluice.db.delivery.progress import Assignment, TopicStart
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from sluice.runtime.skipped_range import SkippedRange
from sluice.tasks.api import Entity, Topic
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.task_sender import Sent

if TYPE_CHECKING:
    from tests.simulation.simulation import World


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


class ProgressStore:
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
            raise ProgressStoreUnavailable("simulated: the transaction failed")
        self._write(watermarks)

    def read_skipped(self) -> dict[Place, Sequence[SkippedRange]]:
        return {}

    def claim_instance(self) -> int:
        self._reach()
        return 0

    def write_reads(self, reader: UUID, **_: Any) -> None:
        self._reach()

    def read_reads(self) -> list[PartitionRead]:
        self._reach()
        return []

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
            raise ProgressStoreUnavailable("simulated")


class WatchedHoldings(Inflight):
    """Holds nothing of a paused topic, from the turn after the one in which that was read."""

    def __init__(self, store: ProgressStore, *, max_bytes: int, max_span: int) -> None:
        super().__init__(max_bytes=max_bytes, max_span=max_span)
        self._store = store

    def take(self, place: Place, records: list[Record], now: float) -> None:
        """What was polled before the pause took hold is still taken."""
        store = self._store
        if place in self.partitions and records and (store.paused is None or store.paused_turns > 1):
            raise Broken(f"{store.world}: {place} is read although paused ({store.paused})")
        super().take(place, records, now)


class Message(NamedTuple):
    """One on a list."""

    queue: str
    slices: list[Slice]
    id: str


class Publisher:
    """Redis as one bridge reaches it."""

    def __init__(self, world: "World") -> None:
        self.world = world

    def publish(self, queue: str, slices: list[Slice]) -> Sent:
        world = self.world
        world.crash_perhaps()
        if world.unlucky(0.03):
            raise PublisherUnavailable("simulated: not arrived")
        message = Message(queue, slices, f"m{len(world.sent)}")
        world.sent.append(message)
        on_list = world.lists.setdefault(queue, [])
        if len(on_list) >= 2 * MAX_MESSAGES:
            raise Broken(f"{world}: {queue} has {len(on_list)} messages already")
        if not world.unlucky(0.08):
            on_list.append(message)
        if world.unlucky(0.03):
            raise PublisherUnavailable("simulated: arrived, but who knows")
        world.crash_perhaps()
        return Sent(message.id, 1, len(on_list))

    def probe(self, queues: Sequence[str], searched: Sequence[str]) -> Probe:
        world = self.world
        if world.unlucky(0.02):
            raise PublisherUnavailable("simulated")
        waiting = {queue: len(world.lists.get(queue, ())) for queue in queues}
        found = {
            queue: Whereabouts(
                frozenset(message.id for message in world.lists.get(queue, ())),
                frozenset(message.id for message in world.in_hand if message.queue == queue),
            )
            for queue in searched
        }
        return Probe({q: Waiting(count, count) for q, count in waiting.items()}, found, str(world.sentinel))
