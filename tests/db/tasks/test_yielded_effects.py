"""A bad effect or an error of a handler makes one dead letter, and the other events are applied."""

import json
from collections.abc import Generator, Iterator
from contextlib import closing
from enum import Enum, StrEnum
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String, Table, select
from sqlalchemy import Enum as EnumType

from sluice.db.connection import BATCH_PLANS, Session
from sluice.db.errors import DeploymentBroken
from sluice.db.tables import entity_table
from sluice.kafka_io.record_types import Headers
from sluice.tasks.api import (
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
)
from sluice.tasks.fold.registry import Registry, collect_modules
from sluice.tasks.redrive import Redriver
from tests.db.tasks.applying import TOPIC, Bench, create_tables, made, nothing_in_kafka, slice_of, things
from tests.db.tasks.projecting import totals
from tests.harness.raw_sql import make_engine


class Name(StrEnum):
    ANN = "ann"


class Kind(Enum):
    NAMED = "named"


alien = Table("alien", MetaData(), Column("id", String, primary_key=True))
moods = entity_table(
    "moods",
    MetaData(),
    Column("id", String(20), primary_key=True),
    Column("kind", EnumType(Kind, name="kind"), nullable=False, default=Kind.NAMED),
    Column("name", EnumType(Name, name="name_of", values_callable=lambda of: [one.value for one in of])),
)
WHOLE: dict[Any, Any] = {"amount": 1, "name": None}


# Each case: what the handler yields, and the text of the letter after file and line.
BAD: dict[str, tuple[Any, str]] = {
    "unknown effect": (Call("unheard"), "Call of effect 'unheard', declared by no module"),
    "unknown column": (Upsert(things, "b", {**WHOLE, "colour": 1}), "there is no column 'colour'"),
    "left out columns": (Upsert(things, "b", {"amount": 1}), "leaves out name: an Upsert writes"),
    "not an effect": ("nonsense", "str 'nonsense' is not an effect"),
    "None": (None, "NoneType None is not an effect"),
    "merge": (Merge(things, "b", {"amount": 1}), "without merged=True"),
    "delete": (Delete(things, "b"), "without deletable=True"),
    "increment": (Increment(things, "b", {"amount": 1}), "not declared in counters="),
    "alien": (Insert(alien, "b", {}), "alien was not made by entity_table"),
    "projection": (Read(totals, "b"), "Read of projection totals"),
    "key": (Insert(things, 7, WHOLE), "things.thing_id: int 7 is no text"),  # type: ignore[arg-type]
    "emit key": (Emit("out", 7, "t", 1), "Emit to out: key must be a string, not int"),  # type: ignore[arg-type]
    "emit topic": (Emit("no topic", "k", "t", 1), "Kafka has no topic named 'no topic'"),
    "emit data": (Emit("out", "k", "t", object()), "is not a JSON"),
    "emit header": (Emit("out", "k", "t", 1, headers={"h": "\0"}), "holds NUL"),
    "args": (Call("notify", args={"a": "\0"}), "args hold the character NUL"),
    "once": (Call("notify", once=""), "once is empty"),
    "version": (Upsert(things, "b", WHOLE, "1"), "version '1', but things has"),  # type: ignore[arg-type]
}  # fmt: skip

RAISED: dict[str, BaseException] = {
    "exit": SystemExit(3),
    "generator exit": GeneratorExit(),
    "import": ImportError("no module named nowhere"),
    "memory": MemoryError(),
    "deployment": DeploymentBroken("raised by the handler"),
    "own": type("Own", (BaseException,), {})("x"),
    "nul": ValueError("a\0b" * 2_000),
}


@handles("case")
def yields_case(event: Event[dict[str, str]]) -> Iterator[Any]:
    case = event.data["case"]
    yield Emit("before", event.key, "t", 1)
    if case in RAISED:
        raise RAISED[case]
    yield BAD[case][0]


LINE = yields_case.__code__.co_firstlineno + 6


@handles("case.read")
def reads_first(event: Event[dict[str, str]]) -> Generator[Any, Any, None]:
    yield Read(things, event.key)
    yield from yields_case(event)


@handles("good")
def good(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Yields a row whose columns are given as Column objects."""
    yield Upsert(things, event.key, {things.c.amount: 1, things.c.name: event.data.get("name")})


@handles("good.members", topic=TOPIC)
def good_members(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield Upsert(things, Name.ANN, {things.c.amount: 1, "name": Name.ANN})
    yield Emit(Name.ANN, Name.ANN, Kind.NAMED, {Kind.NAMED: Name.ANN}, headers={Kind.NAMED: Name.ANN})
    yield Call(notify, Name.ANN, {"name": Name.ANN})


@handles("mood")
def keep_mood(event: Event[dict[str, Any]]) -> Generator[Effect, Any, None]:
    """Yields members for Enum columns, and emits the row that a Read returns."""
    yield Insert(moods, "default", {})
    yield Upsert(moods, event.key, {"kind": Kind.NAMED, moods.c.name: Name.ANN})
    row = yield Read(moods, event.key)
    yield Emit("out", event.key, "mood", row)


@effect("notify", on_unknown="ask")
def notify(call: Any) -> None: ...


def registry(*functions: Any) -> Registry:
    module = ModuleType("yielding")
    vars(module).update({function.__name__: function for function in functions})
    vars(module).update(notify=notify, things=things, topics=(Topic(TOPIC, entity=Entity("thing", 1)),))
    return collect_modules([module])


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create_tables(database_url)
    engine = make_engine(database_url, connect_args={"options": "-c search_path=public"})
    moods.metadata.create_all(engine)
    engine.dispose()
    bench = Bench(database_url, registry(yields_case, reads_first, good, good_members, keep_mood))
    yield bench
    bench.close()


@pytest.mark.parametrize("kind", ["case", "case.read"])
def test_each_bad_event_is_one_letter_and_good_events_are_applied(bench: Bench, kind: str) -> None:
    cases = [*BAD, *RAISED]
    records = []
    for offset, case in zip(range(0, 3 * len(cases), 3), cases, strict=True):
        records.append(made(offset, kind, f"bad {case}", case=case))
        records += [made(number, "good", f"good {number}") for number in (offset + 1, offset + 2)]
    applied = bench.apply(slice_of(records))
    assert applied is not None
    assert dict(applied.outcomes) == {"dead": len(cases), "applied": 2 * len(cases)}
    assert bench.look("SELECT halted_reason FROM sluice.queues") == [(None,)]
    assert bench.look("SELECT count(*) FROM sluice.outbox_events") == [(0,)], "a dead event sends nothing"
    letters = bench.look("SELECT entity_key, error_class, error_text FROM sluice.dead_letters ORDER BY id")
    assert [key for key, _, _ in letters] == [f"bad {case}" for case in cases]
    for case, (_, error_class, text) in zip(cases, letters, strict=True):
        if case in RAISED:
            assert error_class == type(RAISED[case]).__name__
        else:
            assert error_class == "EffectRefused"
            assert text.startswith(f"tests/db/tasks/test_yielded_effects.py:{LINE}: ")
            assert BAD[case][1] in text


def test_a_letter_is_applied_after_the_code_is_corrected(
    bench: Bench, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply(slice_of([made(0, "case", "k", case="left out columns"), made(1, "good", "k", name="later")]))
    assert bench.outcomes() == {"dead": 1, "waiting": 1}
    monkeypatch.setitem(BAD, "left out columns", (Upsert(things, "k", {"amount": 5, "name": None}, 0), ""))
    with closing(Session(database_url, application_name="test redrive", plans=BATCH_PLANS)) as session:
        Redriver(session, bench.registry, nothing_in_kafka).redrive_once("thing", "k")
    assert bench.look("SELECT amount, name FROM public.things") == [(1, "later")]


def test_enum_members_are_stored_as_sqlalchemy_stores_them(bench: Bench) -> None:
    bench.apply(slice_of([made(0, "mood", "k")]))
    assert bench.outcomes() == {"applied": 1}, bench.look("SELECT error_text FROM sluice.dead_letters")
    engine = make_engine(bench.database_url)
    with engine.connect() as connection:
        rows = connection.execute(select(moods.c.id, moods.c.kind, moods.c.name).order_by(moods.c.id)).all()
    engine.dispose()
    assert [tuple(row) for row in rows] == [("default", Kind.NAMED, None), ("k", Kind.NAMED, Name.ANN)]
    [(payload,)] = bench.look("SELECT convert_from(payload, 'UTF8') FROM sluice.outbox_events")
    assert json.loads(payload) == {"id": "k", "kind": "NAMED", "name": "ann", "version": 0}


def test_a_broken_trace_context_makes_no_dead_letter(bench: Bench) -> None:
    headers: Headers = [("traceparent", b"00-\0"), ("tracestate", b"\0")]
    bench.apply(slice_of([made(0, "mood", "k")._replace(headers=headers)]))
    assert bench.outcomes() == {"applied": 1}
    [(sent,)] = bench.look("SELECT headers FROM sluice.outbox_events")
    assert list(sent) == ["traceparent"]
    assert len(sent["traceparent"]) == len("00-") + 32 + len("-") + 16 + len("-00")


def test_columns_enum_members_and_functions_can_be_given_instead_of_their_names(bench: Bench) -> None:
    bench.apply(slice_of([made(0, "good.members", "k"), made(1, "good", "k", name="x")]))
    assert bench.outcomes() == {"applied": 2}, bench.look("SELECT error_text FROM sluice.dead_letters")
    found = bench.look("SELECT thing_id, name FROM public.things ORDER BY 1")
    assert found == [("ann", "ann"), ("k", "x")]
    [(topic, key, kind, headers, payload)] = bench.look(
        "SELECT topic, key, type, headers, convert_from(payload, 'UTF8') FROM sluice.outbox_events"
    )
    assert (topic, key, kind, payload) == ("ann", "ann", "named", '{"named":"ann"}')
    assert headers["named"] == "ann"
    assert bench.look("SELECT effect_key, effect, args FROM sluice.executed_side_effects") == [
        ("notify:ann", "notify", {"name": "ann"})
    ]
