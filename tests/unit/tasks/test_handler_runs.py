"""A run of a handler: its data and its effects are its own, and whatever it raises is the event's fault."""

import asyncio
import gc
import sys
from collections.abc import Callable, Generator, Iterator
from typing import Any

import msgspec
import pytest
from celery.exceptions import WorkerShutdown, WorkerTerminate
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import JSON, Column, Integer, MetaData, String

from sluice.db.errors import DeploymentBroken
from sluice.db.records import Outcome
from sluice.db.tables import entity_table
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import (
    MARK,
    Call,
    Emit,
    Entity,
    Event,
    Increment,
    Insert,
    Read,
    Topic,
    Upsert,
    effect,
)
from sluice.tasks.events.decode import decode
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import Conflict, FoldResult, FoldState, LoadFailed
from sluice.tasks.fold.plan import plan_event
from sluice.tasks.fold.registry import EffectEntry, HandlerEntry, Registry
from sluice.tasks.fold.versioned_row import ABSENT
from tests.unit.tasks.strategies import json_values, texts

things = entity_table(
    "things", MetaData(), Column("id", String, primary_key=True), Column("n", Integer), Column("more", JSON),
    Column("count", Integer, nullable=False, default=0), counters=("count",),
)  # fmt: skip
DATA = {"n": 1, "flat": {"a": 1}, "deep": [{"b": [1]}]}


class Mutable(msgspec.Struct):
    n: int
    flat: dict[str, int]
    deep: list[dict[str, list[int]]]


class HoldsAny(msgspec.Struct, frozen=True):
    n: int
    flat: Any
    deep: list[Any]


def app(*functions: Callable[[Event[Any]], Iterator[Any]], data_type: Any = Any) -> Registry:
    """Handlers of one type, put together by hand: to collect them takes longer than to run them."""
    registry = Registry()
    registry.topics["things"] = Topic("things", entity=Entity("thing"))
    registry.tables["things"] = things
    registry.effects["notify"] = EffectEntry(getattr(notify, MARK)[0], notify)
    registry.handlers["thing"] = tuple(
        HandlerEntry(str(number), ("thing",), function, data_type, None, registry.effects, registry.tables)
        for number, function in enumerate(functions)
    )
    return registry


def run(registry: Registry, *values: Any, memory: FoldState | None = None) -> FoldResult:
    """Events of this data, folded over nothing."""
    topic, planned = registry.topics["things"], []
    for offset, data in enumerate(values or (DATA,)):
        value = {"event_id": f"e{offset}", "type": "thing", "version": offset, "data": data}
        record = Record(offset, 0, b"k%d" % offset, msgspec.json.encode(value), [])
        planned.append(plan_event(registry, topic, decode(topic, "id", 0, record)))
    return fold(planned, memory or FoldState(lambda _table, _key: ABSENT, lambda _key: None))


def sent(result: FoldResult) -> list[Any]:
    return [msgspec.json.decode(emit.payload) for emit in result.emits]


@effect("notify", on_unknown="ask")
def notify(call: Any) -> None: ...


@pytest.mark.parametrize("reads", [False, True])
def test_one_object_that_changes_between_yields_is_seen_as_it_was(reads: bool) -> None:
    def changing(event: Event[Any]) -> Iterator[Any]:
        values: dict[str, Any] = {"n": 0, "more": {"list": []}}
        args = {"list": values["more"]["list"]}
        deltas, headers, data = {"count": 0}, {"h": "0"}, bytearray(b"0")
        otherwise: list[Any] = []
        if reads:
            yield Read(things, "k")
        for number in (1, 2, 3):
            values["n"] = deltas["count"] = number
            headers["h"] = str(number)
            data[0] = 48 + number
            values["more"]["list"].append(number)
            otherwise[:] = [Emit("below", "k", "t", number)]
            yield Insert(things, f"i{number}", values)
            yield Upsert(things, f"u{number}", values)
            yield Increment(things, f"c{number}", deltas)
            yield Emit("out", "k", "t", {"values": values, "data": data}, headers=headers)
            yield Call("notify", once=str(number), args=args)
        yield Increment(things, "floor", {"count": -1}, floor=0, otherwise=otherwise)
        otherwise.clear()

    memory = FoldState(lambda _table, _key: ABSENT, lambda _key: None)
    result = run(app(changing), memory=memory)
    assert [one.outcome for one in result.settled] == [Outcome.APPLIED], result.settled[0].error
    for number in (1, 2, 3):
        listed = list(range(1, number + 1))
        for key in (f"i{number}", f"u{number}"):
            values = memory.rows[things, key].values or {}
            assert (values["n"], values["more"]) == (number, {"list": listed})
        assert (memory.rows[things, f"c{number}"].values or {})["count"] == number
        payload = sent(result)[number - 1]["values"]
        assert (payload["n"], payload["more"]["list"]) == (number, listed)
        assert msgspec.json.decode(result.emits[number - 1].headers)["h"] == str(number)
        assert msgspec.json.decode(result.calls[number - 1].args) == {"list": listed}
    assert result.emits[-1].payload == "3", "otherwise was taken as it was at the yield"
    assert len({sent(result)[number]["data"] for number in range(3)}) == 3


@given(st.dictionaries(texts, json_values, max_size=4))
def test_whatever_is_done_to_values_after_the_yield_changes_nothing(more: dict[str, Any]) -> None:
    def changing(event: Event[Any]) -> Iterator[Any]:
        yield Upsert(things, "k", {"n": 1, "more": more})
        yield Emit("out", "k", "t", more)
        spoil(more)

    before = msgspec.json.encode(more)
    memory = FoldState(lambda _table, _key: ABSENT, lambda _key: None)
    result = run(app(changing), memory=memory)
    assert result.settled[0].outcome is Outcome.APPLIED
    assert result.emits[0].payload.encode() == before
    assert msgspec.json.decode(before) == (memory.rows[things, "k"].values or {})["more"]


def spoil(value: Any) -> None:
    """Changes every container in it."""
    if isinstance(value, dict):
        for inner in list(value.values()):
            spoil(inner)
        value.clear()
    elif isinstance(value, list):
        for inner in value:
            spoil(inner)
        value.clear()
    elif isinstance(value, Mutable):
        value.n = -1
        spoil(value.flat)
        spoil(value.deep)
    elif isinstance(value, HoldsAny):
        spoil(value.flat)
        spoil(value.deep)


@pytest.mark.parametrize("data_type", [Any, dict[str, Any], dict, Mutable, HoldsAny, dict[str, object]])
@pytest.mark.parametrize("reads", [False, True])
def test_what_a_handler_does_to_its_data_is_seen_by_no_other_run(data_type: Any, reads: bool) -> None:
    """Two handlers, their second runs, and a redelivery: each sees the data as it came."""

    def spoiling(event: Event[Any]) -> Iterator[Any]:
        if reads:
            seen = yield Read(things, "k")
            assert seen is None
        yield Emit("out", "k", "t", event.data)
        spoil(event.data)

    def also_spoiling(event: Event[Any]) -> Iterator[Any]:
        spoil_first = msgspec.json.encode(event.data)
        spoil(event.data)
        yield Read(things, "other")
        yield Emit("out", "k", "t", msgspec.Raw(spoil_first))

    registry = app(spoiling, also_spoiling, data_type=data_type)
    first, again = run(registry), run(registry)
    assert sent(first) == sent(again) == [DATA, DATA]
    assert first.settled[0].planned.decoded.data_hash == again.settled[0].planned.decoded.data_hash


def test_what_a_handler_does_to_a_row_that_it_read_is_seen_by_none() -> None:
    def reading(event: Event[Any]) -> Generator[Any, Any, None]:
        yield Upsert(things, "k", {"n": 1, "more": {"a": [1]}})
        for _ in range(2):
            row = yield Read(things, "k")
            yield Emit("out", "k", "t", row)
            spoil(row)

    result = run(app(reading))
    assert [payload["more"] for payload in sent(result)] == [{"a": [1]}] * 2


class Own(BaseException):
    """A handler's own."""


class Textless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Numbered(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


class EndsInText(Exception):
    def __str__(self) -> str:
        raise SystemExit("text")


RAISED: list[BaseException] = [
    ValueError("x"), SystemExit(1), SystemExit(), GeneratorExit(), ImportError("no", name="nowhere"),
    ModuleNotFoundError("no"), RecursionError("deep"), MemoryError(), asyncio.CancelledError(), Own("x"),
    StopIteration(1), StopAsyncIteration(), DeploymentBroken("x"), LoadFailed(ValueError("x")),
    Conflict("x"),
    AssertionError(), Textless(), Numbered(), EndsInText(),
    ValueError("long" * 10**6), ValueError("\0\ud800"),
    BaseExceptionGroup("x", [Own()]), TimeoutError(), ConnectionError(),
]  # fmt: skip


@pytest.mark.parametrize("reads", [False, True], ids=["first run", "run with rows"])
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_handler_raises_is_the_events_fault(error: BaseException, reads: bool) -> None:
    def raising(event: Event[Any]) -> Iterator[Any]:
        if reads:
            yield Read(things, "k")
        if event.offset == 1:
            raise error
        yield Emit("out", "k", "t", event.offset)

    result = run(app(raising), DATA, DATA, DATA)
    assert [one.outcome for one in result.settled] == [Outcome.APPLIED, Outcome.DEAD, Outcome.APPLIED]
    assert sent(result) == [0, 2]
    wanted = "RuntimeError" if isinstance(error, StopIteration) else type(error).__name__
    fault = result.settled[1].error
    assert fault is not None
    assert fault.error_class == wanted
    assert len(fault.text) <= 2_000


def _recursing(event: Event[Any]) -> Iterator[Any]:
    yield from _recursing(event)


def _running(event: Event[Any]) -> Iterator[Any]:
    next(frame for frame in gc.get_referrers(sys._getframe()) if hasattr(frame, "gi_frame")).send(None)
    yield


def _closing(event: Event[Any]) -> Iterator[Any]:
    try:
        yield Read(things, "k")
        yield Increment(things, "k", {"count": -1}, floor=0)
    finally:
        raise Own("at its end")


@pytest.mark.parametrize(
    ("function", "error_class"),
    [(_recursing, "RecursionError"), (_running, "ValueError"), (_closing, "Own")],
)
def test_odd_generators_are_the_events_fault(function: Any, error_class: str) -> None:
    [settled] = run(app(function)).settled
    assert settled.error is not None
    assert (settled.outcome, settled.error.error_class) == (Outcome.DEAD, error_class)


# A generator that cannot be closed is reported by Python where it is thrown away.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_handler_that_the_gate_cannot_end_is_the_events_fault() -> None:
    def endless(event: Event[Any]) -> Iterator[Any]:
        yield Read(things, "k")
        while True:
            try:
                yield Increment(things, "k", {"count": -1}, floor=0)
            except GeneratorExit:
                continue

    [settled] = run(app(endless)).settled
    assert settled.outcome is Outcome.DEAD
    assert "ignored GeneratorExit" in str(settled.error)
    del settled
    gc.collect()


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), WorkerShutdown(0), WorkerTerminate(1)], ids=repr)
def test_what_ends_the_worker_passes(error: BaseException, reads: bool) -> None:
    def raising(event: Event[Any]) -> Iterator[Any]:
        if reads:
            yield Read(things, "k")
        if event.offset == 0:
            raise error

    with pytest.raises(type(error)):
        run(app(raising))


def test_the_exit_of_a_pools_signal_handler_passes() -> None:
    """A pool's process raises SystemExit in whatever runs when SIGTERM arrives."""
    from billiard.common import _should_have_exited, _shutdown_cleanup

    def interrupted(event: Event[Any]) -> Iterator[Any]:
        _shutdown_cleanup(0, None)
        yield

    try:
        with pytest.raises(SystemExit):
            run(app(interrupted))
    finally:
        _should_have_exited[0] = False


@pytest.mark.parametrize("reads", [False, True])
def test_a_refused_effect_names_file_and_line_of_the_yield(reads: bool) -> None:
    def inner() -> Iterator[Any]:
        yield Insert(things, "k", {})
        yield Insert(things, 7, {})  # type: ignore[arg-type]

    def outer(event: Event[Any]) -> Iterator[Any]:
        if reads:
            yield Read(things, "k")
        yield from inner()

    [settled] = run(app(outer)).settled
    assert settled.error is not None
    assert settled.error.error_class == "EffectRefused"
    line = inner.__code__.co_firstlineno + 2
    place = f"tests/unit/tasks/test_handler_runs.py:{line}"
    assert settled.error.text == f"{place}: things.id: int 7 is no text"


def test_a_refused_effect_behind_the_gate_never_happens() -> None:
    def gated(event: Event[Any]) -> Iterator[Any]:
        yield Increment(things, "k", {"count": -1}, floor=0)
        yield None

    [settled] = run(app(gated)).settled
    assert settled.outcome is Outcome.APPLIED
