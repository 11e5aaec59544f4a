"""The relay, a worker and a bridge stay fast while another session has an old snapshot."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from statistics import median
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData, String

from bench.cpu import TICKS_PER_SECOND, read_times
from sluice.admin.rebuild import generation_changes
from sluice.db.admin.audit import Decision
from sluice.db.connection import BATCH_PLANS, QUEUE_PLANS, Session
from sluice.db.delivery import progress
from sluice.db.migrations.migrate import create_projections
from sluice.db.projections import generation_lag
from sluice.db.projections.generations import read_generations
from sluice.db.records import WaitingRow
from sluice.db.tables import entity_table, projection_table
from sluice.kafka_io.record_types import Answer, Delivery, OutgoingRecord
from sluice.stack import Stack
from sluice.tasks.api import Effect, Entity, Event, Insert, ProjectionEffect, Topic, Upsert, handles, projects
from sluice.tasks.apply.apply import Applier
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.events.routing import shard_of
from sluice.tasks.fold.registry import Registry, collect_modules
from sluice.tasks.outbox.relay import Relay
from tests.db.tasks.applying import TOPIC, TOPIC_ID, made
from tests.harness import stacks
from tests.harness.raw_sql import make_engine
from tests.waiting import wait_until

ROWS_PER_SECOND = 1_000
# Largest ratio of the CPU time of the last tenth of the run to the CPU time of the first tenth. The value is
# larger than 1 because a busy machine makes the measurement noisy.
MOST_GROWTH = 3.0

FILL = f"""
INSERT INTO sluice.outbox_events (queue, id, event_id, topic, key, type, headers, payload)
SELECT 'thing.' || n % 4, nextval('sluice.outbox_ids'), gen_random_uuid(), 't', 'k' || n, 'x', '{{}}', 'y'
FROM generate_series(1, {ROWS_PER_SECOND}) AS n
"""


class EverythingArrives:
    """A producer whose broker acknowledges every record immediately."""

    def __init__(self) -> None:
        self.answers: list[Answer[WaitingRow]] = []

    def send(self, row: WaitingRow, record: OutgoingRecord) -> None:
        self.answers.append((row, Delivery.ACKNOWLEDGED, ""))

    def poll(self, timeout_seconds: float) -> list[Answer[WaitingRow]]:
        answers, self.answers = self.answers, []
        return answers

    def close(self) -> None:
        return


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    made = Session(database_url, application_name="test", plans=QUEUE_PLANS)
    made.command(
        "INSERT INTO sluice.entities (entity, shards) VALUES ('thing', 4);"
        "INSERT INTO sluice.queues (queue, entity) SELECT 'thing.' || n, 'thing' FROM generate_series(0, 3) n"
    )
    yield made
    made.close()


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_the_cpu_time_of_the_relay_does_not_grow_under_an_old_snapshot(
    session: Session, database_url: str
) -> None:
    minutes = float(os.environ.get("SOAK_MINUTES", "10"))
    old = Session(database_url, application_name="old snapshot")
    old.command("SET idle_in_transaction_session_timeout = 0")
    old.command("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    writer = Session(database_url, application_name="writer")
    relay = Relay(session, EverythingArrives(), source="soak")
    backend = session.connection.get_backend_pid()
    milliseconds: list[float] = []
    cpu = [read_times()[backend].spent_ticks]
    until = time.monotonic() + 60 * minutes
    while (began := time.monotonic()) < until:
        writer.command(FILL)
        ready = time.monotonic()
        sent = 0
        while now := relay.run_once().sent:
            sent += now
        assert sent == ROWS_PER_SECOND
        milliseconds.append((time.monotonic() - ready) * 1_000)
        cpu.append(read_times()[backend].spent_ticks)
        next_at = began + 1
        wait_until(
            lambda at=next_at: time.monotonic() >= at,  # type: ignore[misc]
            timeout_seconds=2,
            what="one second has passed",
        )
    writer.close()
    old.close()
    tenth = max(1, len(milliseconds) // 10)
    early, late = cpu[tenth] - cpu[0], cpu[-1] - cpu[-1 - tenth]
    print(
        f"{len(milliseconds)} s: {ROWS_PER_SECOND} rows in {median(milliseconds[:tenth]):.0f} ms at first,"
        f" {median(milliseconds[-tenth:]):.0f} ms at the end; CPU ticks of the backend: {early} at first,"
        f" {late} at the end"
    )
    assert late <= MOST_GROWTH * early


QUEUES = 4
BATCHES_PER_SECOND = 100
RECORDS = ROWS_PER_SECOND // BATCHES_PER_SECOND
READS_PER_SECOND = 10
MOST_COST_GROWTH = 1.25

metadata = MetaData()
notes = entity_table(
    "notes",
    metadata,
    Column("note_id", String(64), primary_key=True),
    Column("amount", BigInteger, nullable=False),
)


sums = projection_table(
    "sums",
    MetaData(),
    Column("note_id", String(64), primary_key=True),
    Column("amount", BigInteger, nullable=False),
)


@projects("note.made", into=sums, revision=1)
def sum_note(event: Event[dict[str, Any]]) -> Iterator[ProjectionEffect]:
    """Yields a new row of the projection."""
    yield Upsert(sums, event.key, {"amount": event.data["amount"]})


@handles("note.made")
def make_note(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Yields a new row."""
    yield Insert(notes, event.key, {"amount": event.data["amount"]})


def registry() -> Registry:
    """Returns the registry of the application."""
    module = ModuleType("notes")
    topics = (Topic(TOPIC, entity=Entity("thing", QUEUES)),)
    vars(module).update(make_note=make_note, sum_note=sum_note, notes=notes, topics=topics)
    return collect_modules([module])


class WorkerAndBridge:
    """A worker, a bridge and beat, with one lane per queue. Events insert rows and change none.

    The projection has a live generation and a retired one, which the worker keeps in sync.
    """

    def __init__(self, database_url: str) -> None:
        self._worker = Session(database_url, application_name="worker", plans=BATCH_PLANS)
        self._bridge = progress.ProgressSession(database_url, application_name="bridge")
        metadata.create_all(make_engine(database_url, connect_args={"options": "-c search_path=public"}))
        lanes = dict.fromkeys(range(QUEUES), 0)
        progress.register_topic(self._bridge, progress.TopicStart(TOPIC, TOPIC_ID, "thing", QUEUES, lanes))
        code = registry()
        self._applier = Applier(self._worker, code)
        create_projections(database_url, code.projection_tables, code.revisions)
        self._beat = Session(database_url, application_name="beat", plans=QUEUE_PLANS)
        self._retire_generation(code)
        self._keys: list[list[str]] = [[] for _ in range(QUEUES)]
        self._offsets = [-1] * QUEUES
        self._made = 0

    def _retire_generation(self, code: Registry) -> None:
        decision = Decision("tester", "rebuild", "a test")
        number = generation_changes.begin(
            self._beat, code, sums.name, rate=None, compacted_topics=[], decision=decision
        )
        assert generation_lag.note_ready(self._beat, sums.name, number)
        [ready] = [one for one in read_generations(self._beat, sums.name) if one.generation == number]
        generation_changes.swap(self._beat, code, ready, decision)

    def spent_ticks(self) -> int:
        """Returns the CPU ticks of the three Postgres backends."""
        times = read_times()
        return sum(
            times[session.connection.get_backend_pid()].spent_ticks
            for session in (self._worker, self._bridge, self._beat)
        )

    def run_second(self) -> None:
        """Applies the events of one second. Reads the progress, and raises the watermarks once."""
        places = [(TOPIC, lane) for lane in range(QUEUES)]
        for batch in range(BATCHES_PER_SECOND):
            self._apply(batch % QUEUES)
            if batch % (BATCHES_PER_SECOND // READS_PER_SECOND) == 0:
                progress.read_assignments(self._bridge, places)
                progress.read_halted(self._bridge)
        with self._bridge.transaction(progress.ONE_SNAPSHOT):
            progress.read_assignments(self._bridge, places)
            marks = {place: (1, self._offsets[place[1]] + 1) for place in places}
            progress.raise_watermarks(self._bridge, marks)
        assert generation_lag.read_lagging(self._beat) == []

    def _apply(self, lane: int) -> None:
        before = self._offsets[lane]
        records = [made(before + 1 + n, "note.made", self._key_of(lane), amount=1) for n in range(RECORDS)]
        piece = Slice(TOPIC, TOPIC_ID, lane, 1, before, records)
        applied = self._applier.apply(f"thing.{lane}", [piece])
        assert applied is not None
        assert applied.outcomes == {"applied": RECORDS}
        self._offsets[lane] = before + RECORDS

    def _key_of(self, lane: int) -> str:
        while not self._keys[lane]:
            key = f"key-{self._made}"
            self._made += 1
            self._keys[shard_of(key.encode(), QUEUES)].append(key)
        return self._keys[lane].pop()

    def close(self) -> None:
        self._worker.close()
        self._bridge.close()
        self._beat.close()


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_the_cost_of_an_event_does_not_grow_under_an_old_snapshot(postgres: Stack, database_url: str) -> None:
    seconds = round(60 * float(os.environ.get("SOAK_MINUTES", "10")))
    with (
        # Postgres keeps no old versions for a snapshot in another database.
        stacks.database(postgres) as other_url,
        closing(WorkerAndBridge(database_url)) as held,
        closing(WorkerAndBridge(other_url)) as free,
        closing(Session(database_url, application_name="old snapshot")) as old,
    ):
        old.command("SET idle_in_transaction_session_timeout = 0")
        old.command("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        pairs = (held, free)
        for pair in pairs:
            pair.run_second()
        ticks = [[pair.spent_ticks() for pair in pairs]]
        for _ in range(seconds):
            began = time.monotonic()
            for pair in pairs:
                pair.run_second()
            ticks.append([pair.spent_ticks() for pair in pairs])
            wait_until(
                lambda at=began + 1: time.monotonic() >= at,  # type: ignore[misc]
                timeout_seconds=2,
                what="one second has passed",
            )
    under_snapshot, without = (costs_of_tenths(spent) for spent in zip(*ticks, strict=True))
    print(
        f"{seconds} s: Postgres' microseconds per event in each tenth:"
        f" {[round(one) for one in under_snapshot]} under the snapshot,"
        f" {[round(one) for one in without]} without it"
    )
    # A busy machine makes both more expensive.
    others = max(1.0, without[-1] / without[0])
    assert under_snapshot[-1] <= MOST_COST_GROWTH * others * under_snapshot[0]


def costs_of_tenths(ticks: Sequence[int]) -> list[float]:
    """Returns the CPU microseconds per event in each tenth of the run. `ticks` has a value per second."""
    tenth = max(1, (len(ticks) - 1) // 10)
    return [
        (ticks[end] - ticks[end - tenth]) * 1_000_000 / TICKS_PER_SECOND / tenth / ROWS_PER_SECOND
        for end in range(tenth, len(ticks), tenth)
    ]
