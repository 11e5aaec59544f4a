"""Each run of a handler has its own data, effects and rows; changes to them affect no other run."""

from collections.abc import Generator, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.db.records import Outcome
from sluice.tasks.api import Call, Emit, Event, Increment, Insert, Read, Upsert
from sluice.tasks.fold.fold_state import FoldState
from sluice.tasks.fold.versioned_row import ABSENT
from tests.unit.tasks.running import DATA, app, run, sent, things
from tests.unit.tasks.strategies import json_values, texts


class Mutable(msgspec.Struct):
    n: int
    flat: dict[str, int]
    deep: list[dict[str, list[int]]]


class HoldsAny(msgspec.Struct, frozen=True):
    n: int
    flat: Any
    deep: list[Any]


@pytest.mark.parametrize("reads", [False, True])
def test_an_effect_keeps_the_values_at_its_yield_when_the_object_changes_later(reads: bool) -> None:
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
    assert result.emits[-1].payload == "3", "otherwise has the value at the yield"
    assert len({sent(result)[number]["data"] for number in range(3)}) == 3


@given(st.dictionaries(texts, json_values, max_size=4))
def test_a_change_of_values_after_the_yield_has_no_effect(more: dict[str, Any]) -> None:
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
    """Changes every container in the value."""
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
def test_a_change_of_the_event_data_affects_no_other_run(data_type: Any, reads: bool) -> None:
    """Two handlers, their second runs, and the runs after a redelivery see the original data."""

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


def test_a_change_of_a_read_row_affects_no_other_read() -> None:
    def reading(event: Event[Any]) -> Generator[Any, Any, None]:
        yield Upsert(things, "k", {"n": 1, "more": {"a": [1]}})
        for _ in range(2):
            row = yield Read(things, "k")
            yield Emit("out", "k", "t", row)
            spoil(row)

    result = run(app(reading))
    assert [payload["more"] for payload in sent(result)] == [{"a": [1]}] * 2
