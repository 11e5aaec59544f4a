"""Which effects a topic with dedup="natural" accepts, and that versions alone make repeats harmless."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, MetaData, Table, Text

from sluice.db.records import Outcome
from sluice.db.tables import entity_table, projection_table
from sluice.tasks.api import (
    EVENT,
    Call,
    Delete,
    Effect,
    Emit,
    Entity,
    Event,
    Increment,
    Insert,
    Merge,
    Read,
    Topic,
    Upsert,
    effect,
    handles,
    projects,
)
from sluice.tasks.fold import handler_steps, natural
from sluice.tasks.fold.registry import HandlersRefused, collect_modules
from sluice.testing import World

metadata = MetaData()


def table(name: str, **more: Any) -> Table:
    columns = (
        Column("id", Text, primary_key=True),
        Column("a", BigInteger),
        Column("b", BigInteger),
        Column("count", BigInteger, nullable=False, default=0),
    )
    options = {"merged": True, "deletable": True, "counters": ("count",), **more}
    return entity_table(name, metadata, *columns, **options)


NUMBERED = table("numbered")
FIRST = table("first", versions="timestamp", equal_versions="first")
LAST = table("last", versions="timestamp")
LAST_TOTALS = projection_table(
    "last_totals",
    MetaData(),
    Column("id", Text, primary_key=True),
    Column("a", BigInteger),
    versions="timestamp",
)
FIELDS = {"a": 1, "b": 2}
NATURAL = Topic("natural", entity=Entity("thing", 1), dedup="natural")
OTHER = Topic("other", entity=Entity("thing", 1))


@effect("notify", on_unknown="ask")
def notify(call: Any) -> None:
    """Is never called."""


def module(*topics: Topic, **things: Any) -> ModuleType:
    made = ModuleType("made")
    vars(made).update(topics=topics, notify=notify, **things)
    return made


@handles("insert")
def insert(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Insert(NUMBERED, event.key, FIELDS)


@handles("increment")
def increment(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Increment(NUMBERED, event.key, {"count": 1})


@handles("read")
def read(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    row = yield Read(NUMBERED, event.key)
    assert row is None


@handles("emit")
def emit(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Upsert(NUMBERED, event.key, FIELDS)
    yield Emit("out", key=event.key, type="t", data={})


@handles("call")
def call(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Call("notify")


@handles("versionless")
def versionless(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Upsert(NUMBERED, event.key, FIELDS, version=None)


@handles("versionless")
def delete_versionless(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Delete(NUMBERED, event.key, None)


@handles("last")
def last(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Merge(LAST, event.key, {"a": 1})


@handles("helped")
def helped(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield from help_with(event)


def help_with(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Increment(NUMBERED, event.key, {"count": 1})


@projects("last", into=LAST_TOTALS, revision=1)
def project_last(event: Event[dict[str, Any]]) -> Iterator[Any]:
    yield Upsert(LAST_TOTALS, event.key, {"a": 1})


@handles("good")
def good(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Upsert(NUMBERED, event.key, FIELDS)
    yield Merge(NUMBERED, event.key, {"a": 1}, EVENT)
    yield Delete(FIRST, event.key, version=datetime(2026, 1, 1, tzinfo=UTC))


ONLY = r'has dedup="natural": only Upsert, Merge and Delete with a version'
LATER = r'has dedup="natural": the event would replace newer values'
TIMES = r'has timestamp versions.*could replace another one.*equal_versions="first"'


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (insert, f"Insert for an event of topic natural, which {ONLY}"),
        (increment, f"Increment for an event of topic natural, which {ONLY}"),
        (read, f"Read for an event of topic natural, which {ONLY}"),
        (emit, f"Emit for an event of topic natural, which {ONLY}"),
        (call, f"Call for an event of topic natural, which {ONLY}"),
        (versionless, f"Upsert of numbered with version=None for an event of topic natural, which {LATER}"),
        (delete_versionless, f"Delete of numbered with version=None .*{LATER}"),
        (last, f"last {TIMES}"),
        (helped, f"Increment .*{ONLY}"),
        (project_last, f"last_totals {TIMES}"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_other_effects_are_refused_at_start_if_all_topics_are_natural(handler: Any, reason: str) -> None:
    with pytest.raises(HandlersRefused, match=reason) as refused:
        collect_modules([module(NATURAL, handler=handler)])
    if handler is not project_last:
        assert f"{__file__}:" in str(refused.value)
    collect_modules([module(OTHER, handler=handler)])


def test_versioned_writes_are_accepted() -> None:
    collect_modules([module(NATURAL, handler=good)])
    world = World(module(NATURAL, handler=good))
    assert world.send("natural", key="k", type="good", version=1) == "applied"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("insert", ONLY),
        ("increment", ONLY),
        ("read", ONLY),
        ("emit", ONLY),
        ("call", ONLY),
        ("versionless", LATER),
        ("last", TIMES),
    ],
)
def test_other_effects_are_refused_at_the_yield_if_a_handler_has_other_topics(kind: str, reason: str) -> None:
    handlers = {one.__name__: one for one in (insert, increment, read, emit, call, last)}
    world = World(module(NATURAL, OTHER, versionless=versionless, **handlers))
    version: Any = datetime(2026, 1, 1, tzinfo=UTC) if kind == "last" else 1
    assert world.send("natural", key="k", type=kind, version=version) == "dead"
    [letter] = world.dead_letters
    assert letter.error.startswith("EffectRefused: ")
    assert f"test_natural.py:{_line_of(kind)}" in letter.error
    assert re.search(reason, letter.error)
    assert world.rows(NUMBERED) == {}
    accepted = "ignored" if kind == "read" else "applied"
    assert world.send("other", key="o", type=kind, version=version) == accepted


def _line_of(kind: str) -> int:
    handler = {"insert": insert, "increment": increment, "read": read, "emit": emit, "call": call}.get(
        kind, versionless if kind == "versionless" else last
    )
    return handler.__code__.co_firstlineno + (3 if kind == "emit" else 2)


def test_a_handler_that_is_narrowed_to_natural_topics_is_refused_at_start() -> None:
    narrowed = handles("narrow", topic="natural")(_increment_plainly)
    with pytest.raises(HandlersRefused, match=ONLY):
        collect_modules([module(NATURAL, OTHER, narrowed=narrowed, good=good)])


def _increment_plainly(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Increment(NUMBERED, event.key, {"count": 1})


_keys = st.sampled_from(("k", "l"))
_values = st.fixed_dictionaries({"a": st.integers(0, 1), "b": st.integers(0, 1)})
_steps = st.lists(
    st.tuples(
        st.sampled_from(("upsert", "merge a", "merge b", "delete")),
        st.sampled_from(("numbered", "first")),
        _keys,
        _values,
    ),
    min_size=1,
    max_size=3,
)
_events = st.lists(st.tuples(st.integers(1, 4), _steps), min_size=1, max_size=6)


@handles("scripted")
def scripted(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    for kind, name, key, values in event.data["steps"]:
        yield _effect(kind, name, key, values, event.data["version"])


def _effect(kind: str, name: str, key: str, values: Mapping[str, Any], number: int) -> Effect:
    into = NUMBERED if name == "numbered" else FIRST
    version = number if name == "numbered" else datetime(2026, 1, 1, microsecond=number, tzinfo=UTC)
    match kind:
        case "upsert":
            return Upsert(into, key, values, version)
        case "delete":
            return Delete(into, key, version)
    column = kind[-1]
    return Merge(into, key, {column: values[column]}, version)


@given(events=_events, data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_repeats_of_applied_events_change_nothing_at_any_time(
    events: list[tuple[int, Any]], data: st.DataObject
) -> None:
    once, repeated = World(module(NATURAL, scripted=scripted)), World(module(NATURAL, scripted=scripted))
    taken: list[int] = []
    for number, (version, steps) in enumerate(events):
        content = {"steps": steps, "version": version}
        outcomes = {
            world.send("natural", key=f"e{number}", type="scripted", data=content)
            for world in (once, repeated)
        }
        [outcome] = outcomes
        assert outcome in (Outcome.APPLIED, Outcome.STALE, Outcome.DUPLICATE, Outcome.CONFLICT)
        taken += [number] if outcome is not Outcome.CONFLICT else []
        for again in data.draw(st.lists(st.sampled_from(taken), max_size=3)) if taken else ():
            repeated.repeat_event(again)
        assert once.state == repeated.state


def test_a_mutant_that_allows_an_increment_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natural, "REFUSED", ())
    monkeypatch.setattr(natural, "VERSIONED", (*natural.VERSIONED, Increment))
    monkeypatch.setattr(handler_steps, "natural_problem", lambda *_: None)
    world = World(module(NATURAL, increment=increment))
    world.send("natural", key="k", type="increment", version=1)
    before = world.state
    world.redeliver()
    assert world.state != before, "a repeat is counted twice"


def test_a_mutant_that_allows_the_last_of_equal_timestamps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natural, "_table_problem", lambda *_: None)
    world = World(module(NATURAL, set_last=set_last))
    for amount in (1, 2):
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        world.send("natural", key="k", type="set.last", data={"a": amount}, version=moment)
    before = world.state
    world.repeat_event(0)
    assert world.state != before, "the first event replaces the second one"


@handles("set.last")
def set_last(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Merge(LAST, event.key, {"a": event.data["a"]})
