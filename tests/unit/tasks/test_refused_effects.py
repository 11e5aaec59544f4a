"""Invalid effects of handlers and projections: Sluice refuses each effect, and the error has the reason."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import pytest
from sqlalchemy import Column, MetaData, String, Table

from sluice.tasks.api import Call, Delete, EffectRefused, Emit, Increment, Insert, Merge, Read, Upsert, effect
from sluice.tasks.fold.checked_effects import MAX_OTHERWISE, checked_effect
from sluice.tasks.fold.emitting import MAX_EMIT_BYTES, MAX_HEADERS, MAX_HEADERS_BYTES
from sluice.tasks.fold.registry import AnyEntry
from tests.unit.tasks.yielding import (
    EVENT,
    HANDLER,
    PROJECTOR,
    WHOLE,
    Level,
    Status,
    clicks,
    merged,
    people,
    seen,
)

alien = Table("alien", MetaData(), Column("id", String, primary_key=True))


@effect("twice", on_unknown="ask")
@effect("two", on_unknown="ask")
def send_twice(call: Any) -> None: ...


def send_plainly(call: Any) -> None: ...


@dataclass
class Reading:
    celsius: float


class Forgotten:
    """A class that is not an effect."""


# (case, the yielded effect, a pattern of the error message)
REFUSED: list[tuple[str, Any, str]] = [
    ("nothing", None, r"NoneType None is not an effect; a `yield` without an effect"),
    ("a text", "send", "str 'send' is not an effect$"),
    ("an effect's class", Insert, "is not an effect"),
    ("a list of effects",
        [Read(people, "k")], "a list is not an effect; use `yield from` for several effects$"),
    ("an object", Forgotten(), "Forgotten .* is not an effect"),
    ("a table name instead of a table",
        Insert("people", "k", WHOLE),  # type: ignore[arg-type]
        "table must be made by entity_table.*str 'people'"),
    ("a table that Sluice did not make", Insert(alien, "k", {}), "alien was not made by entity_table"),
    ("a projection", Read(seen, "k"), "Read of projection seen: only handlers declared with @projects"),
    ("no key", Insert(people, None, WHOLE), "Insert of people without a key"),
    ("a number as a key", Insert(people, 7, WHOLE), "people.id: int 7 is no text"),  # type: ignore[arg-type]
    ("a key that is too long", Read(people, "k" * 21), "21 characters, the column holds 20"),
    ("a key with NUL", Read(people, "\0"), "NUL"),
    ("values that are not a mapping",
        Insert(people, "k", [1]), r"values for people must be a mapping, not list"),  # type: ignore[arg-type]
    ("an unknown column", Insert(people, "k", {"naem": 1}), "no column 'naem'; its columns are name, level,"),
    ("the key as a value", Insert(people, "k", {"id": "k"}), "column id is the key"),
    ("a column of Sluice", Insert(people, "k", {"version": 1}), "column version is reserved for Sluice"),
    ("a counter as a value", Insert(people, "k", {"visits": 1}), "visits is a counter, which only Increment"),
    ("a column of another table",
        Insert(people, "k", {merged.c.a: "x"}), "merged.a is not a column of people"),
    ("a column twice", Insert(people, "k", {"name": "x", people.c.name: "y"}), "hold column 'name' twice"),
    ("a number as a column", Insert(people, "k", {1: "x"}), "int 1 names no column"),
    ("a value of another type", Insert(people, "k", {"name": 1}), "people.name: int 1 is no text"),
    ("an enum member of another type",
        Insert(people, "k", {"name": Level.HIGH}), "people.name: int 3 is no text"),
    ("an unknown enum member",
        Insert(people, "k", {"name": "x", "mood": Status.PAID}), "people.mood: .*is not one of"),
    ("null in a non-null column", Insert(people, "k", {"name": None}), "people.name must not be null"),
    ("an Insert without a required column",
        Insert(people, "k", {}), "Insert into people leaves out name; a column is required"),
    ("an Upsert without some columns", Upsert(people, "k", {"name": "x", "mood": None}),
        "leaves out level, more: .* write the value, the default or None, or use Merge and declare"),
    ("an Upsert of a merged table without a column",
        Upsert(merged, "k", {"a": "x"}, None), "leaves out b: .* or use Merge to"),
    ("a Merge into a plain table", Merge(people, "k", {}), "without merged=True"),
    ("a Delete from a plain table", Delete(people, "k"), "without deletable=True"),
    ("a version of the other kind", Delete(merged, "k"), "version 7, but merged has versions='timestamp'"),
    ("a version without a UTC offset",
        Delete(merged, "k", datetime(2026, 1, 1)), "version 2026-01-01T00:00:00 has no UTC offset"),  # noqa: DTZ001
    ("a version over 64 bits", Upsert(people, "k", WHOLE, 2**63), "does not fit 64 bits"),
    ("a bool as version", Upsert(people, "k", WHOLE, True), "version True"),
    ("an Increment of a column that is not a counter",
        Increment(people, "k", {"level": 1}), "people.level, which is not declared in"),
    ("an Increment by null", Increment(people, "k", {"visits": None}), "people.visits by null"),
    ("an Increment by a float",
        Increment(people, "k", {"paid": 0.1}), "people.paid: float 0.1 is no decimal"),
    ("a floor that is not a number",
        Increment(people, "k", {"visits": 1}, "0"),  # type: ignore[arg-type]
        "floor must be a number, not str"),
    ("an effect as `otherwise`, without a sequence",
        Increment(people, "k", {"visits": 1}, 0, Read(people, "k")),  # type: ignore[arg-type]
        "otherwise must be a sequence of effects, not Read"),
    ("a text in `otherwise`",
        Increment(people, "k", {"visits": 1}, 0, ("x",)), "str 'x' is not an effect"),  # type: ignore[arg-type]
    ("an invalid effect in `otherwise`",
        Increment(people, "k", {"visits": 1}, 0, (Call("x"),)), "effect 'x', decl"),
    ("too many effects in `otherwise`",
        Increment(people, "k", {"visits": 1}, 0, [Read(people, "k")] * (MAX_OTHERWISE + 1)),
        "more than 1000"),
    ("a topic without a name", Emit("", "k", "t", 1), "Emit: Kafka has no topic named ''"),
    ("a topic with a space", Emit("my topic", "k", "t", 1), "no topic named 'my topic': a name has 1 to 249"),
    ("a topic name that is too long", Emit("t" * 250, "k", "t", 1), "no topic named"),
    ("a dot as a topic", Emit(".", "k", "t", 1), "no topic named '.'"),
    ("two dots as a topic", Emit("..", "k", "t", 1), "no topic named '..'"),
    ("a topic name with a line break", Emit("t\n", "k", "t", 1), "no topic named"),
    ("a number as a topic", Emit(7, "k", "t", 1), "topic must be a string, not int 7"),  # type: ignore[arg-type]
    ("a number as the key of an event",
        Emit("out", 7, "t", 1), "Emit to out: key must be a string, not int 7"),  # type: ignore[arg-type]
    ("a key of an event that is too long",
        Emit("out", "k" * 256, "t", 1), "key has 256 characters, the limit is 255"),
    ("a key of an event with NUL", Emit("out", "\0", "t", 1), "key '.x00' holds NUL"),
    ("a lone surrogate as a key", Emit("out", "\ud800", "t", 1), "holds NUL or a lone surrogate"),
    ("no type", Emit("out", "k", "", 1), "type is empty"),
    ("a type that is too long", Emit("out", "k", "t" * 256, 1), "type has 256 characters"),
    ("None as a type",
        Emit("out", "k", None, 1), "type must be a string, not NoneType"),  # type: ignore[arg-type]
    ("data that is not JSON", Emit("out", "k", "t", {"x": Forgotten()}), "dict .* is not a JSON value: Enc"),
    ("data with NaN", Emit("out", "k", "t", [{"x": (float("nan"),)}]), "it holds NaN or infinity"),
    ("data with NaN in a struct", Emit("out", "k", "t", {"x": [Reading(float("nan"))]}), "it holds NaN"),
    ("invalid JSON in msgspec.Raw", Emit("out", "k", "t", msgspec.Raw(b"{")), "a JSON value: Inp"),
    ("args with infinity", Call("send_mail", args={"x": float("-inf")}), "it holds NaN or infinity"),
    ("NaN in a JSON column", Insert(people, "k", {"name": "x", "more": float("nan")}), "people.more: .*NaN"),
    ("data with a surrogate", Emit("out", "k", "t", "\ud800"), "is not a JSON"),
    ("data over the limit",
        Emit("out", "k", "t", "x" * MAX_EMIT_BYTES), "data has 1000002 bytes, the limit is"),
    ("a float as the version of an event",
        Emit("out", "k", "t", 1, 1.5), "version must be a 64-bit integer, a string"),  # type: ignore[arg-type]
    ("an event version without a UTC offset",
        Emit("out", "k", "t", 1, datetime(2026, 1, 1)), "aware datetime"),  # noqa: DTZ001
    ("headers that are not a mapping",
        Emit("out", "k", "t", 1, headers=[1]), "headers must be a mapping"),  # type: ignore[arg-type]
    ("a header that is not text",
        Emit("out", "k", "t", 1, headers={"n": 1}),  # type: ignore[dict-item]
        "header 'n' must be a string, not int"),
    ("a header name that is not text", Emit("out", "k", "t", 1, headers={1: "x"}), "name must be a string"),
    ("an empty header name",
        Emit("out", "k", "t", 1, headers={"": "x"}), "a header's name is empty"),
    ("a header with NUL", Emit("out", "k", "t", 1, headers={"n": "\0"}), "header 'n' .* holds NUL"),
    ("a header of CloudEvents",
        Emit("out", "k", "t", 1, headers={"CE_Id": "x"}), "'CE_Id': names that begin with"),
    ("headers over the limit",
        Emit("out", "k", "t", 1, headers={"a": "é" * (MAX_HEADERS_BYTES // 2)}), "headers of"),
    ("too many headers", Emit("out", "k", "t", 1, headers={f"h{n}": "" for n in range(MAX_HEADERS + 1)}),
        "101 headers, the limit is 100"),
    ("an unknown effect",
        Call("send_male"), "effect 'send_male', declared by no module.*declared: send_mail$"),
    ("a number as an effect", Call(7), "effect must be a string, not int 7"),  # type: ignore[arg-type]
    ("a function that is not an effect",
        Call(send_plainly), "send_plainly', which has 0 @effect declarations"),
    ("a function with two effect declarations", Call(send_twice), "send_twice', which has 2 @effect"),
    ("a class as an effect", Call(Forgotten), "effect must be a string, not type"),  # type: ignore[arg-type]
    ("an empty `once`", Call("send_mail", ""), "Call of send_mail: once is empty"),
    ("a number as `once`", Call("send_mail", 7), "once must be a string, not int 7"),  # type: ignore[arg-type]
    ("a `once` with NUL", Call("send_mail", "a\0"), "once .* holds NUL"),
    ("a `once` that is too long", Call("send_mail", "x" * 501), "once has 501 characters"),
    ("args that are not a mapping",
        Call("send_mail", args=[1]), "args must be a mapping, not list"),  # type: ignore[arg-type]
    ("args that are not JSON", Call("send_mail", args={"x": Forgotten()}), "dict .* is not a JSON value"),
    ("args with NUL", Call("send_mail", args={"x": ["\0"]}), "args hold the character NUL"),
]  # fmt: skip

REFUSED_IN_PROJECTIONS: list[tuple[str, Any, str]] = [
    ("an Emit",
        Emit("out", "k", "t", 1), "Emit by a handler that projects into seen: a rebuild would repeat it"),
    ("a Call", Call("send_mail"), "Call by a handler that projects into seen"),
    ("a write to a plain table",
        Insert(people, "k", WHOLE), "Insert of people by a handler that projects into seen"),
    ("a read of another projection",
        Read(clicks, "k"), "Read of clicks by a handler that projects into seen"),
    ("an Emit in `otherwise`",
        Increment(seen, "k", {}, 0, (Emit("out", "k", "t", 1),)), "Emit by a handler"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "yielded", "text"),
    [(HANDLER, *case[1:]) for case in REFUSED] + [(PROJECTOR, *case[1:]) for case in REFUSED_IN_PROJECTIONS],
    ids=[case[0] for case in REFUSED + REFUSED_IN_PROJECTIONS],
)
def test_an_invalid_effect_is_refused_with_the_reason(entry: AnyEntry, yielded: Any, text: str) -> None:
    with pytest.raises(EffectRefused, match=text):
        checked_effect(entry, EVENT, yielded)
