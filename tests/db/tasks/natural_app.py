"""An application whose topic has dedup="natural", and whose handlers accept it."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from sqlalchemy import BigInteger, Column, MetaData, String

from sluice.db.tables import entity_table, projection_table
from sluice.tasks.api import (
    Delete,
    Effect,
    Entity,
    Event,
    Merge,
    ProjectionEffect,
    Topic,
    Upsert,
    handles,
    projects,
)
from sluice.tasks.fold.registry import Registry, collect_modules

TOPIC = "things"
metadata = MetaData()
things = entity_table(
    "things",
    metadata,
    Column("thing_id", String(64), primary_key=True),
    Column("amount", BigInteger),
    Column("name", String(32)),
    merged=True,
    deletable=True,
)
kept = entity_table(
    "kept", metadata, Column("thing_id", String(64), primary_key=True), Column("amount", BigInteger)
)
totals = projection_table(
    "totals",
    MetaData(),
    Column("thing_id", String(64), primary_key=True),
    Column("amount", BigInteger, nullable=False),
    deletable=True,
)


@handles("thing.set")
def set_thing(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Fails for an event with `fails`."""
    if event.data.get("fails"):
        raise RuntimeError("a fault in the handler")
    amount = event.data["amount"]
    yield Upsert(kept, event.key, {"amount": amount})
    yield Upsert(things, event.key, {"amount": amount, "name": None})


@handles("thing.named")
def name_thing(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Merge(things, event.key, {"name": event.data["name"]})


@handles("thing.deleted")
def delete_thing(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Delete(things, event.key)


def registry(revision: int = 1, *, mended: bool = False, factor: int = 1, dedup: Any = "natural") -> Registry:
    """Returns the application. `mended`: no event fails."""

    @projects("thing.set", into=totals, revision=revision)
    def project(event: Event[dict[str, Any]]) -> Iterator[ProjectionEffect]:
        yield Upsert(totals, event.key, {"amount": event.data["amount"] * factor})

    @projects("thing.deleted", into=totals, revision=revision)
    def remove(event: Event[dict[str, Any]]) -> Iterator[ProjectionEffect]:
        yield Delete(totals, event.key)

    @handles("thing.set")
    def set_mended(event: Event[dict[str, Any]]) -> Iterator[Effect]:
        yield Upsert(things, event.key, {"amount": event.data["amount"], "name": None})
        yield Upsert(kept, event.key, {"amount": event.data["amount"]})

    module = ModuleType("natural")
    setting = set_mended if mended else set_thing
    topics = (Topic(TOPIC, entity=Entity("thing", 1), dedup=dedup, on_failure="park"),)
    vars(module).update(
        setting=setting, name=name_thing, delete=delete_thing, project=project, remove=remove, topics=topics
    )
    return collect_modules([module])
