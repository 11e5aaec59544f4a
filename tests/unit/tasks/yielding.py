"""Tables, a handler and a projection for the tests of yielded effects."""

from collections.abc import Iterator
from enum import Enum, IntEnum, StrEnum
from types import ModuleType
from typing import Any

from sqlalchemy import Column, Integer, MetaData, Numeric, String
from sqlalchemy import Enum as EnumType
from sqlalchemy.dialects.postgresql import JSONB

from sluice.db.tables import entity_table, projection_table
from sluice.tasks.api import Entity, Event, ProjectionEffect, Topic, effect, handles, projects
from sluice.tasks.fold.registry import AnyEntry, collect_modules


class Mood(Enum):
    GLAD = "joyful"
    SAD = "mournful"


class Status(StrEnum):
    PAID = "paid"
    NAME = "name"


class Level(IntEnum):
    HIGH = 3


metadata = MetaData()
people = entity_table(
    "people",
    metadata,
    Column("id", String(20), primary_key=True),
    Column("name", String(20), nullable=False),
    Column("level", Integer, nullable=False, default=1),
    Column("mood", EnumType(Mood, name="people_mood")),
    Column("more", JSONB),
    Column("visits", Integer, nullable=False, default=0),
    Column("paid", Numeric(12, 2), nullable=False, default=0),
    counters=("visits", "paid"),
)
merged = entity_table(
    "merged", metadata, Column("id", String(20), primary_key=True), Column("a", String), Column("b", String),
    merged=True, deletable=True, versions="timestamp",
)  # fmt: skip
seen = projection_table("seen", metadata, Column("id", String(20), primary_key=True), Column("n", Integer))
clicks = projection_table("clicks", metadata, Column("id", String(20), primary_key=True))


@effect("send_mail", on_unknown="ask")
def send_mail(call: Any) -> None: ...


@handles("a")
def handler(event: Event[Any]) -> Iterator[Any]:
    yield from ()


@projects("a", into=seen, revision=1)
def projector(event: Event[Any]) -> Iterator[ProjectionEffect]:
    yield from ()


def _entries() -> tuple[AnyEntry, AnyEntry]:
    module = ModuleType("made")
    vars(module).update(handler=handler, projector=projector, send_mail=send_mail)
    vars(module)["topics"] = (Topic("t", entity=Entity("e")),)
    registry = collect_modules([module])
    return registry.handlers["a"][0], registry.projections["a"][0]


HANDLER, PROJECTOR = _entries()
EVENT: Event[Any] = Event("id", "a", "k", 7, None, {}, "t", 0, 0)
WHOLE: dict[Any, Any] = {"name": "Ann", "level": 1, "mood": None, "more": None}
