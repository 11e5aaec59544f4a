"""A projection of several topics requires versions, which Sluice checks at start and at the yield."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData, String

from sluice.db.tables import projection_table
from sluice.kafka_io.record_types import Record
from sluice.tasks import api
from sluice.tasks.api import (
    Delete,
    Emit,
    Entity,
    Event,
    Increment,
    Merge,
    ProjectionEffect,
    Topic,
    Upsert,
    handles,
    projects,
)
from sluice.tasks.events.decode import decode
from sluice.tasks.fold.plan import plan_projection
from sluice.tasks.fold.registry import HandlersRefused, collect_modules

THING = Entity("thing")
BOTH = (Topic("things", THING), Topic("imports", THING, ignores=("import.ended",)))
NO_VERSION = None
rows = projection_table(
    "rows",
    MetaData(),
    Column("id", String, primary_key=True),
    Column("note", String),
    Column("seen", BigInteger, nullable=False, default=0),
    counters=("seen",),
    merged=True,
    deletable=True,
)

Effects = Iterator[ProjectionEffect]


def helper(event: Event[Any]) -> Effects:
    yield Upsert(rows, event.key, {"note": "n"}, version=None)


def upsert(event: Event[Any]) -> Effects:
    yield Upsert(rows, event.key, {"note": "n"}, version=None)


def by_position(event: Event[Any]) -> Effects:
    yield Upsert(rows, event.key, {"note": "n"}, None)


def merge(event: Event[Any]) -> Effects:
    yield Merge(rows, event.key, {"note": "n"}, version=NO_VERSION)


def delete(event: Event[Any]) -> Effects:
    yield Delete(rows, event.key, None)


def by_module(event: Event[Any]) -> Effects:
    yield api.Upsert(rows, event.key, {"note": "n"}, version=None)


def by_helper(event: Event[Any]) -> Effects:
    yield from helper(event)


def in_otherwise(event: Event[Any]) -> Effects:
    yield Increment(rows, event.key, {"seen": 1}, floor=0, otherwise=[Delete(rows, event.key, version=None)])


def versioned(event: Event[Any]) -> Effects:
    yield Upsert(rows, event.key, {"note": "n"})
    yield Merge(rows, event.key, {"note": "n"}, version=event.data["at"])


def counted(event: Event[Any]) -> Effects:
    yield Increment(rows, event.key, {"seen": 1})


def computed(event: Event[Any]) -> Effects:
    yield Upsert(rows, event.key, {"note": "n"}, version=event.data.get("at"))


def emit(event: Event[Any]) -> Iterator[Emit]:
    yield Emit("out", event.key, "t", {}, version=None)


WRITES = (upsert, by_position, merge, delete, by_module, by_helper, in_otherwise)


def module(*things: Any, topics: Any = BOTH) -> ModuleType:
    made = ModuleType("versionless")
    vars(made).update({f"h{n}": thing for n, thing in enumerate(things)}, topics=topics)
    return made


def projecting(function: Callable[..., Any], *types: str, topic: Any = None) -> Any:
    # Each case decorates a new function, because the decorator stores its mark on the function.
    def handler(event: Event[Any]) -> Effects:
        yield from function(event)

    handler.__qualname__ = f"handler_of_{function.__name__}_{topic}"
    return projects(*(types or ("thing.set",)), into=rows, revision=1, topic=topic)(handler)


@pytest.mark.parametrize("write", WRITES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("topic", [None, ("things", "imports")])
def test_a_write_without_version_is_refused_at_start_if_the_handler_has_several_topics(
    write: Callable[..., Any], topic: Any
) -> None:
    with pytest.raises(
        HandlersRefused,
        match=r"test_versionless\.py:\d+: .*projection rows with version=None.*\(imports, things\)",
    ):
        collect_modules([module(projecting(write, topic=topic))])


def test_a_write_without_version_is_refused_at_start_if_two_handlers_have_one_topic_each() -> None:
    both = projecting(versioned, topic="things"), projecting(upsert, "thing.kept", topic="imports")
    with pytest.raises(HandlersRefused, match=r"handler_of_upsert"):
        collect_modules([module(*both)])


@pytest.mark.parametrize("write", WRITES, ids=lambda one: one.__name__)
def test_a_projection_of_one_topic_needs_no_versions(write: Callable[..., Any]) -> None:
    collect_modules([module(projecting(write, topic="things"))])
    collect_modules([module(projecting(write), topics=BOTH[:1])])


@pytest.mark.parametrize("write", [versioned, counted, computed], ids=lambda one: one.__name__)
def test_a_projection_with_versions_accepts_several_topics(write: Callable[..., Any]) -> None:
    assert collect_modules([module(projecting(write))]).projection_topics == {"rows": {"things", "imports"}}


def test_a_plain_handler_and_an_emit_need_no_version() -> None:
    collect_modules([module(handles("thing.set")(emit), projecting(counted))])


@pytest.mark.parametrize(("topic", "refused"), [(None, True), ("things", False)])
def test_a_version_that_is_none_at_run_time_is_refused_when_it_is_yielded(
    topic: str | None, refused: bool
) -> None:
    registry = collect_modules([module(projecting(computed, topic=topic))])
    value = b'{"event_id": "e", "type": "thing.set", "data": {}}'
    decoded = decode(BOTH[0], "id", 0, Record(0, 0, b"k", value, []))
    [run] = plan_projection(registry, rows, decoded).runs
    assert (run.error is not None) == refused
    if run.error is not None:
        assert "take events of several topics" in run.error.text
