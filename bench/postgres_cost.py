"""Measures the cost of one event in Postgres by batch size, with the applier but without Kafka and Celery."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

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

BATCH_SIZES = (200, 500)
EVENTS = 40_000
TOPIC_ID = "of-the-bench"
EPOCH = 1
QUEUES = [f"{account.name}.{shard}" for shard in range(SHARDS)]


@dataclass(frozen=True)
class PostgresCost:
    """The CPU microseconds per event of Postgres and of the applier, for one batch size and one round."""

    batch_events: int
    postgres_us: float
    applier_us: float


def measure_in_turns(ground: Ground, *, rounds: int, seed: int) -> Iterator[PostgresCost]:
    """Measures every size in every round, in turns, each with empty tables."""
    events = list(generate_events(EVENTS, seed=seed))
    for turn in range(rounds):
        for batch_events in BATCH_SIZES if turn % 2 == 0 else BATCH_SIZES[::-1]:
            with ground.site(SLUICE_1) as site:
                yield _measure(site, events, batch_events)


def _measure(site: Site, events: list[BenchEvent], batch_events: int) -> PostgresCost:
    lanes = dict.fromkeys(range(SHARDS), 0)
    register_topic(site.session, TopicStart(TOPIC, TOPIC_ID, account.name, SHARDS, lanes))
    session = Session(site.deployment.urls.database_url, application_name="bench applier", plans=BATCH_PLANS)
    applier = Applier(session, site.ground.registry)
    by_lane: list[list[Record]] = [[] for _ in QUEUES]
    for event in events:
        key = event.key.encode()
        by_lane[shard_of(key, SHARDS)].append(Record(event.number, 0, key, event.value, []))
    before = site.ground.cpu_seconds()["postgres"]
    started = time.process_time()
    previous = dict.fromkeys(lanes, -1)
    # Each queue has one lane. Consecutive batches are for different queues, as in a worker.
    most = max(map(len, by_lane))
    for first, lane in product(range(0, most, batch_events), lanes):
        part = by_lane[lane][first : first + batch_events]
        if not part:
            continue
        piece = Slice(TOPIC, TOPIC_ID, lane, EPOCH, previous[lane], part)
        applied = applier.apply(QUEUES[lane], [piece])
        if applied is None or applied.outcomes["applied"] != len(part):
            raise RuntimeError(f"a batch of the bench was not applied: {applied}")
        previous[lane] = piece.last
    spent = time.process_time() - started
    postgres = site.ground.cpu_seconds()["postgres"] - before
    session.close()
    per_event = MICROSECONDS / len(events)
    return PostgresCost(batch_events, postgres * per_event, spent * per_event)
