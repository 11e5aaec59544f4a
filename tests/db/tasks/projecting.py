"""The small application with a projection, and a bench that rebuilds it. A list replaces the log in Kafka."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Self

import pytest
from sqlalchemy import BigInteger, CheckConstraint, Column, MetaData, String

from sluice.admin.accept import accept_topic
from sluice.admin.rebuild import generation_changes
from sluice.admin.rebuild.checkpoints import make_checkpoint
from sluice.db.admin.audit import Decision
from sluice.db.admin.rerouting import TopicRouting
from sluice.db.migrations.migrate import create_projections
from sluice.db.projections.checkpoints import Checkpoint, read_checkpoints
from sluice.db.tables import projection_table
from sluice.kafka_io import partition_reader
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from sluice.stack.patience import patient
from sluice.tasks.api import Effect, Event, Increment, ProjectionEffect, Upsert, handles, projects
from sluice.tasks.apply.apply import Applied
from sluice.tasks.events.routing import queue_name, shard_of
from sluice.tasks.fold.registry import Registry, collect_modules
from sluice.tasks.rebuild.rebuild import _Turn
from sluice.tasks.redrive import Redriver
from tests.db.tasks import applying
from tests.db.tasks.applying import TOPIC, Thing, made, slice_of, things

PLACE = (TOPIC, 0)
DECISION = Decision("tester", "rebuild", "a test")

totals = projection_table(
    "totals",
    MetaData(),
    Column("thing_id", String(64), primary_key=True),
    Column(
        "amount",
        BigInteger,
        CheckConstraint("amount < 1000000", name="amount_small"),
        nullable=False,
        default=0,
    ),
    Column("seen", BigInteger, nullable=False, default=0),
    counters=("seen",),
)


@handles("thing.set")
def set_shortened(event: Event[Thing]) -> Iterator[Effect]:
    """Does the same as `set_thing`, but shortens a long name."""
    yield Upsert(
        things, event.key, {"amount": event.data.amount, "name": (event.data.name or "")[:32] or None}
    )


def registry(revision: int, factor: int = 1, *, mended: bool = False, **more: Any) -> Registry:
    """Returns the application with this revision of its projection: the amount times `factor`, and a counter.

    With `mended`, the handlers accept poison events.
    """

    @projects("thing.set", into=totals, revision=revision)
    def project(event: Event[Thing]) -> Iterator[ProjectionEffect]:
        yield Increment(totals, event.key, {"seen": 1})
        yield Upsert(totals, event.key, {"amount": event.data.amount * factor})

    module = ModuleType("projecting")
    vars(module).update({"project": project, **more})
    plain = applying.registry()
    module.topics = tuple(plain.topics.values())  # type: ignore[attr-defined]
    both = collect_modules([module])
    both.handlers, both.metadatas = plain.handlers, plain.metadatas
    both.effects.update(plain.effects)
    if mended:
        forgiving = ModuleType("forgiving")
        vars(forgiving).update({"topics": module.topics, "set_shortened": set_shortened})
        both.handlers["thing.set"] = collect_modules([forgiving]).handlers["thing.set"]
    return both


class ListReader:
    """Reads a list instead of a partition. Calls `meanwhile` before each read."""

    def __init__(self, log: list[Record], offset: int, meanwhile: Callable[[], None]) -> None:
        self._log = log
        self._meanwhile = meanwhile
        self.read_through = offset - 1

    def read(self, timeout_seconds: float) -> list[Record]:
        """Replaces `PartitionReader.read`."""
        self._meanwhile()
        found = [record for record in self._log if record.offset > self.read_through][
            : partition_reader.MAX_RECORDS
        ]
        if found:
            self.read_through = found[-1].offset
        return found

    def close(self) -> None:
        """Does nothing."""


@dataclass
class Bench(applying.Bench):
    """An applier with the code of one revision, and methods that rebuild the projection from one log."""

    registry: Registry = field(default_factory=lambda: registry(1))
    log: list[Record] = field(default_factory=list)
    kafka: dict[int, Record] = field(default_factory=dict)
    """Maps offset → complete record, for each record of which the log holds only a part."""

    def with_code(self, code: Registry) -> Self:
        """Returns the bench of another deployment, with this code and the same database and log."""
        other = type(self)(self.database_url, code)
        other.log = self.log
        return other

    def live(self, *records: Record) -> Applied | None:
        """Appends these records to the log and applies them."""
        self.log += records
        return self.catch_up()

    def catch_up(self, queues: Sequence[str] | None = None, through: int | None = None) -> Applied | None:
        """Applies the records up to offset `through` that are not applied yet, of these queues or of all."""
        done = None
        [(topic_id, epoch)] = self.look("SELECT topic_id, epoch FROM sluice.topics, sluice.entities")
        log = [r for r in self.log if through is None or r.offset <= through]
        for queue in queues or self.queues():
            rows = self.look(
                f"SELECT applied_offset FROM sluice.lane_offsets WHERE queue = '{queue}' AND epoch = {epoch}"
            )
            applied = rows[0][0] if rows else -1
            left = [r for r in log if r.offset > applied and self.queue_of(r) == queue]
            if left:
                piece = slice_of(left, applied, epoch=epoch)._replace(topic_id=topic_id)
                done = self.applier.apply(queue, [piece])
        return done

    def accept(self, log: Sequence[Record], topic_id: str) -> None:
        """Replaces the log of the topic and accepts the topic. `catch_up` then applies the whole new log."""
        [(before,)] = self.look("SELECT topic_id FROM sluice.topics")
        ranges = {0: LogRange(0, log[-1].offset + 1 if log else 0)}
        routings = TopicRouting(before, "thing"), TopicRouting(topic_id, "thing")
        accept_topic(self.session, TOPIC, *routings, ranges, DECISION._replace(verb="accept"))
        self.log[:] = log

    def queues(self) -> list[str]:
        """Returns the names of all queues."""
        return [queue for (queue,) in self.look("SELECT queue FROM sluice.queues ORDER BY queue")]

    def queue_of(self, record: Record) -> str:
        """Returns the queue to which the bridge would send the record."""
        return queue_name("thing", shard_of(record.key, len(self.queues())))

    def add_queues(self, shards: int) -> None:
        """Changes the number of queues to `shards`. Requires that no record has been applied."""
        self.looking.command(
            f"UPDATE sluice.entities SET shards = {shards};"
            "INSERT INTO sluice.queues (queue, entity)"
            f" SELECT 'thing.' || n, 'thing' FROM generate_series(1, {shards - 1}) AS n"
        )

    def live_from_here(self, *records: Record) -> Applied | None:
        """Appends these records to the log and applies only these, not earlier records of the log."""
        self.log += records
        return self.apply(slice_of(list(records)))

    def begin(self, **more: Any) -> int:
        """Begins a generation with this code. Returns its number."""
        options: dict[str, Any] = {"rate": None, "compacted_topics": [], "decision": DECISION}
        return generation_changes.begin(self.session, self.registry, "totals", **{**options, **more})

    def checkpoint(self, name: str) -> Checkpoint:
        """Makes a checkpoint of the live generation and returns it."""
        make_checkpoint(self.session, "totals", name, DECISION)
        return next(one for one in read_checkpoints(self.session, "totals") if one.checkpoint == name)

    def rebuild(
        self, generation: int, meanwhile: Callable[[], None] = lambda: None, place: Place = PLACE
    ) -> bool:
        """Runs one turn of a rebuild over a partition. The log of the bench stands for the partition."""
        turn = _Turn(self.session, self.registry, "totals", generation, place, self.read_whole)
        return turn.run(lambda offset: ListReader(self.log, offset, meanwhile), patient(20.0))  # type: ignore[arg-type, return-value]

    def read_whole(self, place: Place, offset: int) -> Record | None:
        """Replaces `read_whole_record`."""
        return self.kafka.get(offset) or next((one for one in self.log if one.offset == offset), None)

    def redrive(self, key: str = "k") -> None:
        """Redrives all letters of an entity."""
        with_letters = Redriver(self.session, self.registry, self.read_whole)
        while not (done := with_letters.redrive_once("thing", key)).unparked:
            if done.blocked_by or not done.outcomes:
                return

    def generation(self, number: int) -> Any:
        """Returns the row of a generation."""
        from sluice.db.projections.generations import read_generations

        return next(g for g in read_generations(self.session, "totals") if g.generation == number)

    def swap(self, number: int) -> int:
        """Makes a generation live."""
        return generation_changes.swap(self.session, self.registry, self.generation(number), DECISION)

    def rows(self, number: int | None = None) -> dict[str, tuple[int, int]]:
        """Returns (amount, seen) of each thing, from a generation or, without `number`, from the view."""
        table = "totals" if number is None else f"totals_g{number}"
        return {
            key: (amount, seen)
            for key, amount, seen in self.look(f"SELECT thing_id, amount, seen FROM public.{table}")
        }

    def reset(self) -> None:
        """Restores the state before the first event."""
        self.session.close()
        newest = max(self.states())
        self.looking.command(
            f"CREATE TABLE IF NOT EXISTS public.totals_g1 (LIKE public.totals_g{newest} INCLUDING ALL)"
        )
        self.looking.command("CREATE OR REPLACE VIEW public.totals AS SELECT * FROM public.totals_g1")
        for number in self.states():
            if number > 1:
                self.looking.command(f"DROP TABLE public.totals_g{number}")
        self.looking.command(
            """
            TRUNCATE public.things, public.totals_g1, sluice.processed_events, sluice.lane_offsets,
                sluice.failure_windows, sluice.outbox_events, sluice.executed_side_effects,
                sluice.dead_letters, sluice.parked_entities, sluice.tombstones, sluice.generations,
                sluice.audit CASCADE;
            UPDATE sluice.topics SET topic_id = 'id-of-things';
            UPDATE sluice.entities SET epoch = 1;
            UPDATE sluice.projections SET live_generation = 1, newest_generation = 1;
            INSERT INTO sluice.generations (projection, generation, state, revision, has_been_live)
            VALUES ('totals', 1, 'live', 1, true);
            UPDATE sluice.queues SET halted_reason = NULL
            """
        )
        self.log.clear()

    def states(self) -> dict[int, str]:
        """Returns the state of each generation."""
        return dict(self.look("SELECT generation, state FROM sluice.generations"))


def create(database_url: str) -> None:
    """Creates the application's tables and projection, and the rows of `sluice init`."""
    applying.create_tables(database_url)
    code = registry(1)
    create_projections(database_url, code.projection_tables, code.revisions)


def poison(offset: int, key: str = "k", amount: int = 1) -> Record:
    """Returns an event that fails, except in code with `mended`."""
    return made(offset, "thing.set", key, amount=amount, name=f"{offset:040}")


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create(database_url)
    made = Bench(database_url)
    yield made
    made.close()


@pytest.fixture
def opened() -> Iterator[Callable[[Bench], Bench]]:
    """Yields a function that takes and returns a bench, and closes this bench at the end of the test."""
    benches: list[Bench] = []

    def keep(one: Bench) -> Bench:
        benches.append(one)
        return one

    yield keep
    for one in benches:
        one.close()
