"""A small application, and a test bench that applies slices of its topic without Kafka and Celery."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import msgspec
import pytest
from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, MetaData, String, text

from sluice.db.connection import BATCH_PLANS, Session
from sluice.db.tables import entity_table
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from sluice.tasks.api import Call, Effect, Emit, Entity, Event, Insert, Read, Topic, Upsert, effect, handles
from sluice.tasks.apply.apply import Applied, Applier
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.fold.registry import Registry, collect_modules
from tests.harness.raw_sql import cursor_of, make_engine

TOPIC, TOPIC_ID, QUEUE = "things", "id-of-things", "thing.0"

metadata = MetaData()
things = entity_table(
    "things",
    metadata,
    Column("thing_id", String(64), primary_key=True),
    Column("amount", BigInteger, CheckConstraint("amount >= 0", name="amount_not_negative"), nullable=False),
    Column("name", String(32), unique=True),
)
parts = entity_table(
    "parts",
    metadata,
    Column("part_id", String(64), primary_key=True),
    Column(
        "thing_id",
        String(64),
        ForeignKey("things.thing_id", deferrable=True, initially="DEFERRED", name="part_of_thing"),
        nullable=False,
    ),
)


def nothing_in_kafka(place: Place, offset: int) -> None:
    """Replaces `read_whole_record`. Finds no record."""


class Thing(msgspec.Struct, frozen=True):
    """The data of a `thing.set` event."""

    amount: int
    name: str | None = None


@handles("thing.set")
def set_thing(event: Event[Thing]) -> Iterator[Effect]:
    """Yields a row with the version of the event, an outgoing event and a call."""
    yield Upsert(things, event.key, {"amount": event.data.amount, "name": event.data.name})
    yield Emit("things-out", key=event.key, type="thing.seen", data={"amount": event.data.amount})
    yield Call("notify", args={"amount": event.data.amount})


@handles("thing.copied")
def copy_thing(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Reads the row of the event's key, and writes the amount to another row."""
    row: Any = yield Read(things, event.key)
    yield Upsert(things, event.data["to"], {"amount": 0 if row is None else row["amount"], "name": None})
    yield Emit("things-out", key=event.data["to"], type="thing.seen", data={"copied": row is not None})


@handles("part.added")
def add_part(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Yields a row whose foreign key Postgres checks only at COMMIT."""
    yield Insert(parts, event.key, {"thing_id": event.data["thing_id"]})


@handles("thing.broken")
def break_thing(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Fails for every event."""
    if event.type == "thing.broken":
        raise RuntimeError("a fault in the handler")
    yield Insert(parts, event.key, {})


@effect("notify", on_unknown="ask")
def notify(call: Any) -> dict[str, Any]:
    """Declares an effect that these tests never call."""
    return {}


def registry() -> Registry:
    """Returns the registry of the application."""
    module = ModuleType("applying")
    vars(module).update(
        set_thing=set_thing,
        copy_thing=copy_thing,
        add_part=add_part,
        break_thing=break_thing,
        notify=notify,
        things=things,
    )
    module.topics = (Topic(TOPIC, entity=Entity("thing", 1)),)  # type: ignore[attr-defined]
    return collect_modules([module])


def create_tables(database_url: str) -> None:
    """Creates the application's tables, and inserts the rows that `sluice init` would write."""
    engine = make_engine(database_url, connect_args={"options": "-c search_path=public"})
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO sluice.entities (entity, shards) VALUES ('thing', 1)"))
        connection.execute(text(f"INSERT INTO sluice.topics VALUES ('{TOPIC}', '{TOPIC_ID}', 'thing')"))
        connection.execute(text(f"INSERT INTO sluice.queues (queue, entity) VALUES ('{QUEUE}', 'thing')"))
    engine.dispose()


def made(offset: int, kind: str, key: str = "k", *, event_id: str | None = None, **fields: Any) -> Record:
    """Returns a record. Its version is `version`; the default is its offset."""
    version = fields.pop("version", offset)
    value = {"event_id": event_id or f"e{offset}", "type": kind, "version": version, "data": fields}
    return Record(offset, 1_700_000_000_000, key.encode(), json.dumps(value).encode(), [])


def thing_set(offset: int, key: str = "k", amount: int = 1, **more: Any) -> Record:
    """Returns a record with a `thing.set` event."""
    return made(offset, "thing.set", key, amount=amount, **more)


def slice_of(records: list[Record], prev: int = -1, *, epoch: int = 1) -> Slice:
    """Returns a slice of these records. The slice states that they follow offset `prev` in the lane."""
    return Slice(TOPIC, TOPIC_ID, 0, epoch, prev, records)


@dataclass
class Bench:
    """An applier on a database, and queries of the rows that the applier stored."""

    database_url: str
    registry: Registry = field(default_factory=registry)

    def __post_init__(self) -> None:
        self.session = Session(self.database_url, application_name="test apply", plans=BATCH_PLANS)
        self.applier = Applier(self.session, self.registry)
        # So that a statement of the test may write many rows on a busy machine.
        limits = {"statement_timeout": "60s"}
        self.looking = Session(self.database_url, application_name="test look", settings=limits)

    def apply(self, *slices: Slice) -> Applied | None:
        """Applies one message."""
        return self.applier.apply(QUEUE, slices)

    def look(self, query: str, values: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
        """Runs a query and returns its rows."""
        with cursor_of(self.looking) as cursor:
            cursor.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def amounts(self) -> dict[str, int]:
        """Returns the amount of each thing."""
        return dict(self.look("SELECT thing_id, amount FROM public.things"))

    def outcomes(self) -> dict[str, int]:
        """Returns the counters of the lane that are not zero."""
        names = ("applied", "duplicate", "stale", "conflict", "waiting", "dead", "ignored", "call_conflict")
        found = self.look(f"SELECT {', '.join(names)} FROM sluice.lane_offsets")
        return {name: count for row in found for name, count in zip(names, row, strict=True) if count}

    def close(self) -> None:
        """Closes both sessions."""
        self.session.close()
        self.looking.close()


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    """Yields a bench. Its database has the tables of the application."""
    create_tables(database_url)
    made = Bench(database_url)
    yield made
    made.close()
