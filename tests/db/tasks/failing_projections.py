"""An application with two projections. A test can make the projection `totals` fail in every way."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData, String

from sluice.db.migrations.migrate import create_projections
from sluice.db.tables import projection_table
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Entity, Event, Increment, ProjectionEffect, Topic, Upsert, projects
from sluice.tasks.fold.registry import Registry, collect_modules
from sluice.tasks.projection_redrive import HeldEntity, ProjectionRedriver
from tests.db.tasks import applying, projecting
from tests.db.tasks.applying import TOPIC, Thing, made, thing_set
from tests.db.tasks.projecting import totals

BAD = 13
"""The amount that the failing code cannot project."""

labels = projection_table(
    "labels",
    MetaData(),
    Column("thing_id", String(64), primary_key=True),
    Column("amount", BigInteger, nullable=False, default=0),
    Column("seen", BigInteger, nullable=False, default=0),
    counters=("seen",),
)

Amount = Callable[[Event[Thing]], int]
"""A function that computes the amount for the projection `totals`, or raises an error."""


def as_it_is(event: Event[Thing]) -> int:
    """Returns the amount of the event, as correct code does."""
    return event.data.amount


def raising(event: Event[Thing]) -> int:
    """Returns the amount of the event. Raises an error if the amount is BAD."""
    if event.data.amount == BAD:
        raise ValueError("thirteen")
    return event.data.amount


def application(
    amount: Amount = as_it_is,
    *,
    version: Callable[[Event[Thing]], int] | None = None,
    revision: int = 1,
    topic: Topic | None = None,
) -> ModuleType:
    """Returns the application.

    Two projections read `thing.set` and `thing.shown`. Only `thing.set` has a handler.
    """

    @projects("thing.set", "thing.shown", into=totals, revision=revision)
    def total(event: Event[Thing]) -> Iterator[ProjectionEffect]:
        yield Increment(totals, event.key, {"seen": 1})
        at = event.version if version is None else version(event)
        assert isinstance(at, int)
        yield Upsert(totals, event.key, {"amount": amount(event)}, at)

    @projects("thing.set", "thing.shown", into=labels, revision=1)
    def label(event: Event[Thing]) -> Iterator[ProjectionEffect]:
        yield Increment(labels, event.key, {"seen": 1})
        yield Upsert(labels, event.key, {"amount": event.data.amount})

    module = ModuleType("failing_projections")
    vars(module).update(total=total, label=label)
    for name in ("set_thing", "add_part", "break_thing", "notify", "things"):
        setattr(module, name, getattr(applying, name))
    module.topics = (topic or Topic(TOPIC, entity=Entity("thing", 1)),)  # type: ignore[attr-defined]
    return module


def registry(amount: Amount = as_it_is, **more: Any) -> Registry:
    """Returns the registry of the application."""
    return collect_modules([application(amount, **more)])


@dataclass
class Bench(projecting.Bench):
    """The bench for rebuilds. Some methods read the letters of a generation (failed and waiting events)."""

    def letters(self, generation: int = 1) -> list[tuple[Any, ...]]:
        """Returns offset, key, outcome, state and error class of each letter of a generation of `totals`."""
        return self.look(f"""
            SELECT "offset", entity_key, outcome, state, error_class FROM sluice.projection_letters
            WHERE projection = 'totals' AND generation = {generation} ORDER BY id
        """)

    def states(self) -> dict[int, str]:
        """Returns the state of each generation of `totals`."""
        return dict(self.look("SELECT generation, state FROM sluice.generations WHERE projection = 'totals'"))

    def labelled(self) -> dict[str, tuple[int, int]]:
        """Returns (amount, seen) of each thing in the projection `labels`."""
        return {key: (a, n) for key, a, n in self.look("SELECT thing_id, amount, seen FROM public.labels")}

    def halted(self) -> list[str]:
        """Returns the reasons of the halted queues."""
        return [why for (why,) in self.look("SELECT halted_reason FROM sluice.queues") if why is not None]

    def redriver(self) -> ProjectionRedriver:
        """Returns a redriver that runs this code."""
        return ProjectionRedriver(self.session, self.registry, self.read_whole)

    def redrive_letters(self, key: str, generation: int = 1) -> str | None:
        """Redrives the open letters of an entity. Returns why the entity is blocked, or None."""
        held = HeldEntity("totals", generation, "thing", key)
        while not (done := self.redriver().redrive_once(held)).unparked:
            if done.blocked_by or not done.outcomes:
                return done.blocked_by
        return None

    def drop_letter(self, key: str, generation: int = 1) -> bool:
        """Drops the first open letter of an entity."""
        held = HeldEntity("totals", generation, "thing", key)
        [(first,)] = self.look(f"""
            SELECT min(id) FROM sluice.projection_letters
            WHERE generation = {generation} AND entity_key = '{key}' AND state IN ('dead', 'waiting')
        """)
        return self.redriver().drop(held, first)


def shown(offset: int, key: str = "k", amount: int = 1, **more: Any) -> Record:
    """Returns a record with a `thing.shown` event, which only projections handle."""
    return made(offset, "thing.shown", key, amount=amount, **more)


def stream(kind: Callable[..., Record] = thing_set) -> list[Record]:
    """Returns five events of two keys. The second event of `a` is bad.

    If Postgres is to refuse the row of the bad event, apply the third event of `a` in a later batch. In the
    same batch, the third event would overwrite the bad row before Postgres checks the row.
    """
    return [kind(0, "a", 1), kind(1, "b", 4), kind(2, "a", BAD), kind(3, "a", 3), kind(4, "b", 5)]


def create(database_url: str) -> None:
    """Creates the application's tables and projections, and the rows of `sluice init`."""
    applying.create_tables(database_url)
    code = registry()
    create_projections(database_url, code.projection_tables, code.revisions)


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create(database_url)
    made = Bench(database_url, registry(raising))
    yield made
    made.close()
