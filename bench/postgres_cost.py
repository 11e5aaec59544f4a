"""Measures the cost of one event in Postgres, with the applier but without Kafka and Celery."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from bench.app import SHARDS, TOPIC, account
from bench.contenders import SLUICE_1
from bench.events import BenchEvent, generate_events
from bench.ground import MICROSECONDS, Ground, Site
from sluice.db.connection import BATCH_PLANS, Session
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.kafka_io.record_types import Record
from sluice.tasks.apply.apply import Applier
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.events.routing import shard_of

EVENTS = 40_000
TOPIC_ID = "of-the-bench"
EPOCH = 1
QUEUES = [f"{account.name}.{shard}" for shard in range(SHARDS)]


@dataclass(frozen=True)
class Case:
    """The circumstances under which the cost is measured."""

    name: str
    batch_events: int = 500
    lanes: int = 1
    """The number of lanes per queue, all of which are in each message."""
    writes: int = 1
    waiting: int = 0
    """The number of outgoing events that wait in the outbox before."""
    identities: int = 0
    """The number of identities that are stored before."""


BASE = Case("500 events per batch")
SMALL = Case("200 events per batch", batch_events=200)
WRITES = tuple(Case(f"{count} writes per event", writes=count) for count in (3, 10))
# These must cost hardly more than BASE.
GROWN = (
    Case("10 lanes per message", lanes=10),
    Case("200,000 waiting outbox rows", waiting=200_000),
    Case("a million identities more", identities=1_000_000),
)
CASES = (BASE, SMALL, *WRITES, *GROWN)


@dataclass(frozen=True)
class PostgresCost:
    """The CPU microseconds per event of Postgres and of the applier, for one case and one round."""

    case: str
    turn: int
    postgres_us: float
    applier_us: float

    @property
    def both_us(self) -> float:
        """Returns the sum of both."""
        return self.postgres_us + self.applier_us


def measure_in_turns(ground: Ground, *, events: int, rounds: int, seed: int) -> Iterator[PostgresCost]:
    """Measures every case in every round. At first, the tables have no rows of these events."""
    for turn in range(rounds):
        for case in CASES if turn % 2 == 0 else CASES[::-1]:
            made = list(generate_events(min(events, EVENTS), seed=seed, writes=case.writes))
            with ground.site(SLUICE_1) as site:
                yield _measure(site, made, case, turn)


def batches(lanes: Sequence[Sequence[Record]], batch_events: int) -> Iterator[list[Sequence[Record]]]:
    """Yields the next records of each lane, about `batch_events` together, until all lanes are at their ends.

    The list has an item for each lane, which is empty if the lane has ended.
    """
    each = max(1, batch_events // len(lanes))
    for first in range(0, max(map(len, lanes)), each):
        yield [lane[first : first + each] for lane in lanes]


def _measure(site: Site, events: list[BenchEvent], case: Case, turn: int) -> PostgresCost:
    site.store_identities(case.identities)
    if case.waiting:
        site.fill_outbox(case.waiting)
    starts = dict.fromkeys(range(case.lanes), 0)
    register_topic(site.session, TopicStart(TOPIC, TOPIC_ID, account.name, SHARDS, starts))
    session = Session(site.deployment.urls.database_url, application_name="bench applier", plans=BATCH_PLANS)
    applier = Applier(session, site.ground.registry)
    lanes: list[list[list[Record]]] = [[[] for _ in starts] for _ in QUEUES]
    for event in events:
        key = event.key.encode()
        record = Record(event.number, 0, key, event.value, [])
        lanes[shard_of(key, SHARDS)][int(event.key[-5:]) % case.lanes].append(record)
    previous = [dict.fromkeys(starts, -1) for _ in QUEUES]
    before = site.ground.cpu_seconds()["postgres"]
    started = time.process_time()
    # Consecutive batches are for different queues, as in a worker.
    for parts in zip_longest(*(batches(of_queue, case.batch_events) for of_queue in lanes), fillvalue=[]):
        for number, of_queue in enumerate(parts):
            _apply(applier, number, of_queue, previous[number])
    spent = time.process_time() - started
    postgres = site.ground.cpu_seconds()["postgres"] - before
    session.close()
    per_event = MICROSECONDS / len(events)
    return PostgresCost(case.name, turn, postgres * per_event, spent * per_event)


def _apply(
    applier: Applier, queue: int, records: Sequence[Sequence[Record]], previous: dict[int, int]
) -> None:
    """Applies one message of a queue, and sets the offsets in `previous` to its last ones."""
    slices = [
        Slice(TOPIC, TOPIC_ID, lane, EPOCH, previous[lane], list(part))
        for lane, part in enumerate(records)
        if part
    ]
    if not slices:
        return
    applied = applier.apply(QUEUES[queue], slices)
    if applied is None or applied.outcomes["applied"] != sum(map(len, records)):
        raise RuntimeError(f"a batch of the bench was not applied: {applied}")
    previous.update({piece.partition: piece.last for piece in slices})
