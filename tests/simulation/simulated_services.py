"""The Postgres and Redis of a simulation. Both fail at random."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
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
    from tests.simulation.simulation import Simulation


TOPIC, TOPIC_ID = "t", "id-1"
PARTITIONS = (0, 1)
PLACES: tuple[Place, ...] = tuple((TOPIC, number) for number in PARTITIONS)
TOPICS = {TOPIC: Topic(TOPIC, Entity("e", shards=2))}
QUIET_TURNS = 4_000

# Seconds between turns: short; short, but sometimes long enough to write a watermark; very irregular.
PACES = ((0.001, 0.01, 0.02), (0.005, 0.02, 0.03, 0.03, 0.03, 1.1), (0.001, 0.01, 0.05, 0.12, 0.3, 1.2))


class Broken(AssertionError):
    """Raised when a guarantee is violated. The message names the guarantee, the partition and the seed."""


class Crash(Exception):
    """Raised where the process of a bridge ends."""


@dataclass
class Postgres:
    """The state: copied for a snapshot, and replaced to restore an older state."""

    registered: bool = False
    epoch: int = 1
    shards: int = 2
    watermarks: dict[Place, int] = field(default_factory=dict)
    lanes: dict[tuple[Place, str, int], int] = field(default_factory=dict)
    halted: set[str] = field(default_factory=set)
    paused: bool = False
    """True while an operator pauses the topic."""
    epoch_starts: dict[tuple[Place, int], int] = field(default_factory=dict)
    """The first offset of a partition in an epoch. Records below were applied in earlier epochs."""
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
    """The Postgres of one bridge."""

    def __init__(self, simulation: "Simulation") -> None:
        self.simulation = simulation
        self.paused: bool | None = None
        """The last value of `Postgres.paused` that the bridge read; None before the first read."""

    def read_assignments(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        self._reach()
        return self._read(places)

    def register_topic(self, start: TopicStart) -> None:
        self._reach()
        pg = self.simulation.pg
        for number, offset in start.starts.items():
            place = (start.topic, number)
            if pg.watermarks.setdefault(place, 0 if pg.registered else offset) == 0:
                pg.epoch_starts.setdefault((place, pg.epoch), 0)
        pg.registered = True

    def read_progress(self, places: Iterable[Place], queues: AbstractSet[str]) -> Progress:
        self._reach()
        progress = self._progress(places)
        return progress._replace(
            partitions={
                place: replace(one, applied={q: o for q, o in one.applied.items() if q in queues})
                for place, one in progress.partitions.items()
            }
        )

    def settle_progress(self, places: Iterable[Place], decide: Callable[[Progress], Watermarks]) -> None:
        self._reach()
        pg, epoch = self.simulation.pg, self.simulation.pg.epoch
        watermarks = decide(self._progress(places))
        self.simulation.meanwhile()
        # A failover ends the transaction. The transaction also fails if a re-routing updated its rows.
        if self.simulation.pg is not pg or pg.epoch != epoch:
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
        pg = self.simulation.pg
        self.paused = pg.paused
        return Progress(self._read(places), frozenset(pg.halted), frozenset([TOPIC] if pg.paused else []))

    def _read(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        pg = self.simulation.pg
        return {place: pg.assignment(place) for place in places} if pg.registered else {}

    def _write(self, watermarks: Watermarks) -> None:
        pg = self.simulation.pg
        for place, (epoch, watermark) in watermarks.items():
            if epoch == pg.epoch and place in pg.watermarks and watermark > pg.watermarks[place]:
                pg.watermarks[place] = watermark
                self.simulation.check_watermark(place)
        self.simulation.crash_perhaps()

    def _reach(self) -> None:
        self.simulation.crash_perhaps()
        if self.simulation.unlucky(0.03):
            raise ProgressStoreUnavailable("simulated")


class WatchedInflight(Inflight):
    """Checks that a bridge takes no record of a paused topic after it has read the pause."""

    def __init__(self, store: ProgressStore, *, max_bytes: int, max_span: int) -> None:
        super().__init__(max_bytes=max_bytes, max_span=max_span)
        self._store = store

    def take(self, place: Place, records: list[Record], now: float) -> None:
        """Takes records. Raises Broken if the bridge has read a pause, or has read nothing yet."""
        store = self._store
        if place in self.partitions and records and store.paused is not False:
            raise Broken(f"{store.simulation}: {place} is read although paused (known pause: {store.paused})")
        super().take(place, records, now)


class Message(NamedTuple):
    """A message on a list."""

    queue: str
    slices: list[Slice]
    id: str


class Publisher:
    """The Redis of one bridge."""

    def __init__(self, simulation: "Simulation") -> None:
        self.simulation = simulation

    def publish(self, queue: str, slices: list[Slice]) -> Sent:
        simulation = self.simulation
        simulation.crash_perhaps()
        if simulation.unlucky(0.03):
            raise PublisherUnavailable("simulated: the message did not arrive")
        message = Message(queue, slices, f"m{len(simulation.sent)}")
        simulation.sent.append(message)
        on_list = simulation.lists.setdefault(queue, [])
        if len(on_list) >= 2 * MAX_MESSAGES:
            raise Broken(f"{simulation}: {queue} has {len(on_list)} messages already")
        if not simulation.unlucky(0.08):
            on_list.append(message)
        if simulation.unlucky(0.03):
            raise PublisherUnavailable("simulated: the message arrived, but the answer was lost")
        simulation.crash_perhaps()
        return Sent(message.id, 1, len(on_list))

    def probe(self, queues: Sequence[str], searched: Sequence[str]) -> Probe:
        simulation = self.simulation
        if simulation.unlucky(0.02):
            raise PublisherUnavailable("simulated")
        waiting = {queue: len(simulation.lists.get(queue, ())) for queue in queues}
        found = {
            queue: Whereabouts(
                frozenset(message.id for message in simulation.lists.get(queue, ())),
                frozenset(message.id for message in simulation.in_hand if message.queue == queue),
            )
            for queue in searched
        }
        return Probe(
            {q: Waiting(count, count) for q, count in waiting.items()}, found, str(simulation.sentinel)
        )
