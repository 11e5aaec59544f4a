"""Handlers are collected at start. The error about an invalid declaration names its place in the code."""

from collections.abc import Callable, Iterator
from enum import Enum
from types import ModuleType
from typing import Any, cast

import msgspec
import pytest
from sqlalchemy import Column, MetaData, String, Table

from examples.shop import tables
from sluice.db.tables import entity_table, projection_table
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Effect, Entity, Event, Insert, ProjectionEffect, Topic, effect, handles, projects
from sluice.tasks.events.decode import decode
from sluice.tasks.fold.plan import plan_event, plan_projection
from sluice.tasks.fold.registry import HandlersRefused, collect_handlers, collect_modules

THING = Entity("thing", 2)
TOPICS = (Topic("things", entity=THING),)
view = projection_table("view", MetaData(), Column("id", String, primary_key=True))
entities = entity_table("entities", MetaData(), Column("id", String, primary_key=True))
plain = Table("plain", MetaData(), Column("id", String, primary_key=True))


class Thing(msgspec.Struct):
    """Data of an event."""


@handles("thing.b", "thing.a")
def on_thing(event: Event[Thing]) -> Iterator[Effect]:
    yield from ()


@handles("thing.a")
def also_on_thing(event: Event[Any]) -> Iterator[Effect]:
    yield from ()


@handles("thing.c")
@projects("thing.a", into=view, revision=3)
def project_thing(event) -> Iterator[ProjectionEffect]:  # type: ignore[no-untyped-def]
    yield from ()


@effect("notify", on_unknown="ask", timeout_seconds=3)
def notify(call: Any) -> dict[str, Any]:
    return {}


def module(name: str = "made_up", **things: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update({"topics": TOPICS, **things})
    return made


def test_the_declarations_of_modules_are_collected() -> None:
    registry = collect_modules(
        [
            module(on_thing=on_thing, notify=notify, other=project_thing),
            module(also=also_on_thing, on_thing=on_thing),
        ]
    )
    assert registry.topics == {"things": TOPICS[0]}
    assert registry.entities == {"thing": THING}
    assert {kind: [e.function for e in entries] for kind, entries in registry.handlers.items()} == {
        "thing.a": [also_on_thing, on_thing],  # sorted by name
        "thing.b": [on_thing],
        "thing.c": [project_thing],
    }
    assert registry.handlers["thing.b"][0].name == f"{__name__}.on_thing"
    [projection] = registry.projections["thing.a"]
    assert (projection.function, projection.into, projection.revision) == (project_thing, view, 3)
    assert registry.effects["notify"].declaration.timeout_seconds == 3


def test_the_data_type_is_read_from_the_annotation() -> None:
    handlers = collect_modules([module(a=on_thing, b=also_on_thing, c=project_thing)]).handlers
    assert handlers["thing.b"][0].data_type is Thing
    assert {entry.data_type for entry in handlers["thing.a"]} == {Any, Thing}
    assert handlers["thing.c"][0].data_type is Any


def test_a_comma_separated_setting_names_the_modules() -> None:
    registry = collect_handlers(" examples.shop.handlers , examples.shop.effects,")
    assert "order.placed" in registry.handlers
    assert tables.metadata in registry.metadatas


class Kind(Enum):
    PLACED = "order.placed"


def test_a_handler_with_topics_handles_only_events_of_these_topics() -> None:
    def of(name: str, topic: Any, kind: Any = "a") -> Any:
        def handler(event: Event[Any]) -> Iterator[ProjectionEffect]:
            yield Insert(view, event.key, {})

        handler.__qualname__ = name
        return projects(kind, into=view, revision=1, topic=topic)(handler)

    both = (Topic("things", entity=THING), Topic("others", entity=THING))
    functions = (of("one", "things"), of("two", ("things", both[1])), of("three", both[1], Kind.PLACED))
    registry = collect_modules([module(topics=both, **{f.__qualname__: f for f in functions})])
    assert list(registry.projections) == ["a", "order.placed"]

    def planned(topic: Topic, kind: bytes = b"a") -> list[str]:
        value = b'{"event_id": "e", "type": "%s", "version": 1}' % kind
        decoded = decode(topic, "id", 0, Record(0, 0, b"k", value, []))
        event, projected = plan_event(registry, topic, decoded), plan_projection(registry, view, decoded)
        names = [run.entry.name.rpartition(".")[2] for run in event.runs]
        assert [run.entry.name.rpartition(".")[2] for run in projected.runs] == names
        return names

    assert planned(both[0]) == ["one", "two"]
    assert planned(both[1]) == ["two"]
    assert planned(both[0], b"order.placed") == []
    assert planned(both[1], b"order.placed") == ["three"]


def test_the_error_names_a_topic_without_a_handler_of_the_type() -> None:
    narrowed = handles("a", topic="things")(twin)
    try:
        both = (Topic("things", entity=THING), Topic("others", entity=THING, ignores=("b",)))
        registry = collect_modules([module(topics=both, a=narrowed)])
        decoded = decode(both[1], "id", 0, Record(0, 0, b"k", b'{"event_id": "e", "type": "a"}', []))
        assert "no handler for type 'a' of topic others" in str(plan_event(registry, both[1], decoded).error)
    finally:
        vars(twin).pop("__sluice__")


def test_importing_registers_nothing() -> None:
    with pytest.raises(HandlersRefused, match="no module of SLUICE_HANDLERS has `topics"):
        collect_modules([ModuleType("empty")])


def not_a_generator(event: Event[Any]) -> list[Effect]:
    return []


def of_two(event: Event[Any], more: int) -> Iterator[Effect]:
    yield from ()


def of_unknown(event: "Event[Nowhere]") -> Iterator[Effect]:  # type: ignore[name-defined] # noqa: F821
    yield from ()


def twin(event: Event[Any]) -> Iterator[ProjectionEffect]:
    yield from ()


def other_twin(event: Event[Any]) -> Iterator[Effect]:
    yield from ()


other_twin.__qualname__ = "twin"


def _other_notify() -> Callable[..., Any]:
    @effect("notify", on_unknown="ask")
    def elsewhere(call: Any) -> dict[str, Any]:
        return {}

    return elsewhere


def topics(*given: Topic) -> ModuleType:
    return module(topics=given)


REFUSED: list[tuple[str, Callable[[], Any], str]] = [
    ("no module", lambda: collect_handlers(" , "), "SLUICE_HANDLERS is empty"),
    ("a missing module",
     lambda: collect_handlers("shop.nowhere"), "module shop.nowhere cannot be imported"),
    ("a handler that is not a generator",
     lambda: handles("a")(cast(Any, not_a_generator)),
     r"test_registry\.not_a_generator contains no yield"),
    ("two parameters", lambda: handles("a")(cast(Any, of_two)), r"of_two takes 2 parameters"),
    ("an unresolvable annotation",
     lambda: handles("a")(of_unknown), "of_unknown: its annotation cannot be read"),
    ("no event type", lambda: handles()(twin), "twin: name at least one event type, and none"),
    ("an event type twice", lambda: handles("a", "a")(twin), "twin: name at least one event type, and none"),
    ("two handlers of one name",
     lambda: module(a=handles("a")(twin), b=handles("a")(other_twin)), r"two handlers are called .*\.twin"),
    ("a projection into a plain table",
     lambda: projects("a", into=plain, revision=1)(twin), "table plain was not made by"),
    ("a projection into an entity table",
     lambda: projects("a", into=entities, revision=1)(twin), "into=entities, which was not made by"),
    ("a projection of two revisions",
     lambda: module(a=project_thing, b=projects("a", into=view, revision=4)(twin)),
     "revision [34] of view, another of its handlers has [34]"),
    ("a revision below the first",
     lambda: projects("a", into=view, revision=0)(twin), "revisions begin at 1"),
    ("an effect twice",
     lambda: module(a=notify, b=_other_notify()), "effect notify is declared twice: notify and .*elsewhere"),
    ("two different declarations of a topic",
     lambda: topics(*TOPICS, Topic("things", entity=Entity("x"))), "things has two different .*made_up"),
    ("an entity with two shard counts",
     lambda: topics(*TOPICS, Topic("t", entity=Entity("thing", 9))), "two shard counts.*made_up"),
    ("an entity with a dot", lambda: topics(Topic("t", entity=Entity("a.b"))), "entity 'a.b' in made_up"),
    ("an entity without a name", lambda: topics(Topic("t", entity=Entity(""))), "entity '' in made_up"),
    ("a long entity name", lambda: topics(Topic("t", entity=Entity("x" * 65))), "1 to 64 characters"),
    ("no shards", lambda: topics(Topic("t", entity=Entity("x", 0))), "shards ≥ 1"),
    ("a topic name that Kafka refuses", lambda: topics(Topic("a b", entity=THING)),
     "topics of made_up: Kafka has no topic named 'a b'"),
    ("a string instead of a Topic", lambda: module(topics=("things",)), "'things', which is not a Topic"),
    ("an outgoing topic name that Kafka refuses", lambda: module(outgoing_topics=(*"ab", "..")),
     "outgoing_topics of made_up: Kafka has no topic named '..'"),
    ("an outgoing topic that is not text", lambda: module(outgoing_topics=(7,)), "a string, not int 7"),
    ("outgoing topics without a comma", lambda: module(outgoing_topics=("out")),
     r"not str 'out'; write outgoing_topics = \('out',\)"),
    ("a handler of an undeclared topic", lambda: handles("a", topic=("things", "thongs"))(twin),
     "twin: topic='thongs' is declared by no module of SLUICE_HANDLERS; declared: things"),
    ("a projection of an undeclared topic",
     lambda: projects("a", into=view, revision=3, topic=Topic("other", entity=THING))(twin), "topic='other'"),
    ("a handler with no topics", lambda: handles("a", topic=())(twin), "twin: topic= names no topic"),
    ("a topic that is a number", lambda: handles("a", topic=cast(Any, 7))(twin), "twin: topic=7 is declared"),
    ("an effect whose name is a number",
     lambda: module(a=effect(cast(Any, 7), on_unknown="ask")(lambda call: None)),
     "name= must be a string, not int 7"),
    ("an event type that is a number", lambda: handles(cast(Any, 7))(twin), "twin: 7 is not an event type"),
]  # fmt: skip


def _module_of(made: Any) -> ModuleType:
    return made if isinstance(made, ModuleType) else module(made=made)


@pytest.mark.parametrize(("make", "text"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_an_invalid_declaration_is_refused_with_its_place_in_the_code(
    make: Callable[[], Any], text: str, request: pytest.FixtureRequest
) -> None:
    marked = (not_a_generator, of_two, of_unknown, twin, other_twin)
    request.addfinalizer(lambda: [vars(function).pop("__sluice__", None) for function in marked])
    with pytest.raises(HandlersRefused, match=text):
        collect_modules([_module_of(make())])


def test_an_effect_that_retries_requires_a_key_lifetime() -> None:
    with pytest.raises(ValueError, match="effect pay: on_unknown='retry' requires key_lifetime="):
        effect("pay", on_unknown="retry")
