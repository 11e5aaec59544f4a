"""Valid effects of handlers: the check accepts each effect and returns it with plain values."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from sluice.tasks.api import Call, Delete, Emit, Increment, Insert, Merge, Read, Upsert
from sluice.tasks.fold.checked_effects import checked_effect
from tests.unit.tasks.yielding import EVENT, HANDLER, WHOLE, Level, Mood, Status, merged, people, send_mail

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
RAW = msgspec.Raw
# (case, the yielded effect, the checked effect)
ACCEPTED: list[tuple[str, Any, Any]] = [
    ("an Insert takes defaults",
        Insert(people, "k", {"name": "x"}), Insert(people, "k", {**WHOLE, "name": "x"})),
    ("an Upsert with the event's version", Upsert(people, "k", WHOLE), Upsert(people, "k", WHOLE, 7)),
    ("an Upsert without a version", Upsert(people, "k", WHOLE, None), Upsert(people, "k", WHOLE, None)),
    ("columns as keys",
        Upsert(people, "k", {people.c.name: "x", "level": 2, people.c.mood: None, people.c.more: None}),
        Upsert(people, "k", {"name": "x", "level": 2, "mood": None, "more": None}, 7)),
    ("an enum member as a column name", Insert(people, "k", {Status.NAME: "x"}),
        Insert(people, "k", {**WHOLE, "name": "x"})),
    ("quoted column names of SQLAlchemy", Insert(people, "k", {people.c.name.name: "x"}),
        Insert(people, "k", {**WHOLE, "name": "x"})),
    ("enum members as values",
        Insert(people, Status.PAID, {"name": Status.PAID, "level": Level.HIGH, "more": {Mood.SAD: Mood.SAD}}),
        Insert(people, "paid", {"name": "paid", "level": 3, "mood": None, "more": {"mournful": "mournful"}})),
    ("a member of the column's own enum",
        Insert(people, "k", {"name": "x", "mood": Mood.SAD}),
        Insert(people, "k", {**WHOLE, "name": "x", "mood": "SAD"})),
    ("the name of an enum member",
        Insert(people, "k", {"name": "x", "mood": "SAD"}),
        Insert(people, "k", {**WHOLE, "name": "x", "mood": "SAD"})),
    ("an enum member as a version", Upsert(people, "k", WHOLE, Level.HIGH), Upsert(people, "k", WHOLE, 3)),
    ("a datetime as a version",
        Delete(merged, "k", MOMENT), Delete(merged, "k", 1_767_225_600_000_000)),
    ("a Merge", Merge(merged, "k", {merged.c.a: None}, None), Merge(merged, "k", {"a": None}, None)),
    ("increments by column",
        Increment(people, "k", {people.c.paid: Decimal("1.5"), "visits": Level.HIGH}, Level.HIGH),
        Increment(people, "k", {"paid": Decimal("1.50"), "visits": 3}, 3)),
    ("effects for the argument otherwise, from a generator",
        Increment(people, "k", {"visits": 1}, 0, (Read(people, key) for key in "ab")),
        Increment(people, "k", {"visits": 1}, 0, (Read(people, "a"), Read(people, "b")))),
    ("an Emit", Emit("out", None, "t", {"n": 1}), Emit("out", None, "t", RAW(b'{"n":1}'))),
    ("an Emit with an empty key", Emit("out", "", "t", 1), Emit("out", "", "t", RAW(b"1"))),
    ("enum members in an Emit",
        Emit(Status.PAID, Status.NAME, Mood.GLAD, {Mood.SAD: [Mood.GLAD, Level.HIGH]}, Level.HIGH,
            {"h": Mood.SAD}),
        Emit("paid", "name", "joyful", RAW(b'{"mournful":["joyful",3]}'), 3, {"h": "mournful"})),
    ("a datetime as the version of an emitted event",
        Emit("out", "k", "t", 1, MOMENT), Emit("out", "k", "t", RAW(b"1"), "2026-01-01T00:00:00+00:00")),
    ("a Call with a function as its effect",
        Call(send_mail, "o", {"b": 1, "a": 2}), Call("send_mail", "o", RAW(b'{"a":2,"b":1}'))),  # type: ignore[arg-type]
    ("enum members in a Call",
        Call("send_mail", Status.PAID, {Mood.SAD: Status.PAID}),
        Call("send_mail", "paid", RAW(b'{"mournful":"paid"}'))),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize(("yielded", "made"), [c[1:] for c in ACCEPTED], ids=[c[0] for c in ACCEPTED])
def test_a_valid_effect_is_accepted(yielded: Any, made: Any) -> None:
    checked = checked_effect(HANDLER, EVENT, yielded)
    assert checked == made
    assert _types(checked) == _types(made), "the check replaces an enum member by its plain value"


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return [(type(name), type(inner)) for name, inner in sorted(value.items())]
    if isinstance(value, msgspec.Struct):
        return [_types(getattr(value, name)) for name in value.__struct_fields__]
    return type(value)
