"""The result of each write to each kind of row, and the row afterwards.

The base is the version of the whole row. A merged field has a version of its own. In tables of the cases
"first: …", the first of two writes with equal timestamps wins.
"""

from typing import Any
from uuid import UUID

import pytest

from sluice.db.tables import Shape, shape_of
from sluice.db.values import ValueRefused
from sluice.tasks.fold import versioned_row
from sluice.tasks.fold.versioned_row import ABSENT, Row, WriteResult
from tests.unit.tasks.strategies import FIRST_WINS, MERGED, whole

INT, TIME, FIRST = shape_of(MERGED["integer"]), shape_of(MERGED["timestamp"]), shape_of(FIRST_WINS)


def U(version: int | None, **values: Any) -> tuple[Any, ...]:
    return (versioned_row.upsert, whole(MERGED["integer"], values), version)


def M(version: int | None, **values: Any) -> tuple[Any, ...]:
    return (versioned_row.merge, values, version)


def I(version: int | None, **values: Any) -> tuple[Any, ...]:  # noqa: E743
    return (versioned_row.insert, whole(MERGED["integer"], values), version)


def D(version: int | None) -> tuple[Any, ...]:
    return (versioned_row.delete, version)


def INC(count: int, floor: int | None = None) -> tuple[Any, ...]:
    return (versioned_row.increment, {"count": count}, floor)


A, S, DUP, C = WriteResult.APPLIED, WriteResult.STALE, WriteResult.DUPLICATE, WriteResult.CONFLICT
GONE = None

# (case, shape of the table, writes, the result of each write, the row's (a, b, count) afterwards)
CASES: list[tuple[str, Shape, list[tuple[Any, ...]], list[WriteResult | None], Any]] = [
    ("a newer upsert wins", INT, [U(1, a="x"), U(2, a="y")], [A, A], ("y", 7, 0)),
    ("an older upsert is stale", INT, [U(2, a="x"), U(1, a="y")], [A, S], ("x", 7, 0)),
    ("an upsert with equal version and equal values", INT, [U(2, a="x"), U(2, a="x")], [A, DUP], ("x", 7, 0)),
    ("an upsert with equal version and other values", INT, [U(2, a="x"), U(2, a="y")], [A, C], ("x", 7, 0)),
    ("of two upserts with equal times, the later arrival wins", TIME,
        [U(2, a="x"), U(2, a="y")], [A, A], ("y", 7, 0)),
    ("an upsert without version is applied and keeps the base", INT,
        [U(9, a="x"), U(None, a="y"), U(8)], [A, A, S], ("y", 7, 0)),
    ("an upsert keeps newer merged fields", INT, [M(3, a="x"), U(2, a="y", b=1)], [A, A], ("x", 1, 0)),
    ("a repeated upsert is older than a merged field", INT,
        [U(2, a="y"), M(3, a="x"), U(2, a="y")], [A, A, DUP], ("x", 7, 0)),
    ("an upsert has the version and value of a merged field", INT,
        [M(2, a="x"), U(2, a="x", b=1)], [A, A], ("x", 1, 0)),
    ("an upsert has the version of a merged field, but another value", INT,
        [M(2, a="x"), U(2, a="y")], [A, C], ("x", 7, 0)),
    ("an upsert keeps counters", INT, [INC(5), U(2, a="y")], [A, A], ("y", 7, 5)),
    ("merges of different fields", INT, [M(2, a="x"), M(1, b=1)], [A, A], ("x", 1, 0)),
    ("an older merge of the same field is stale", INT, [M(2, a="x"), M(1, a="y")], [A, S], ("x", 7, 0)),
    ("a merge is applied if one of its fields is newer", INT,
        [M(2, a="x"), M(1, a="y", b=1)], [A, A], ("x", 1, 0)),
    ("a merge with equal version and equal value", INT, [M(2, a="x"), M(2, a="x")], [A, DUP], ("x", 7, 0)),
    ("a merge with equal version and another value", INT, [M(2, a="x"), M(2, a="y")], [A, C], ("x", 7, 0)),
    ("if one field of a merge conflicts, no field is written", INT,
        [M(2, a="x"), M(2, a="y", b=1)], [A, C], ("x", 7, 0)),
    ("a merge of another field with equal version", INT, [M(2, a="x"), M(2, b=1)], [A, A], ("x", 1, 0)),
    ("a merge with the version of the base and equal value", INT,
        [U(2, a="x"), M(2, a="x")], [A, DUP], ("x", 7, 0)),
    ("a merge with the version of the base and another value", INT,
        [U(2, a="x"), M(2, a="y")], [A, C], ("x", 7, 0)),
    ("of two merges with equal times, the later arrival wins", TIME,
        [M(2, a="x"), M(2, a="y")], [A, A], ("y", 7, 0)),
    ("a merge that is older than the base is stale", INT, [U(2, a="x"), M(1, b=1)], [A, S], ("x", 7, 0)),
    ("a merge without fields", INT, [M(2)], [S], GONE),
    ("a merge without version is applied and keeps the version of the field", INT,
        [M(9, a="x"), M(None, a="y"), M(8, a="z")], [A, A, S], ("y", 7, 0)),
    ("a repeated insert with equal values", INT, [I(None, a="x"), I(None, a="x")], [A, DUP], ("x", 7, 0)),
    ("a repeated insert that writes a default explicitly", INT,
        [I(None, a="x"), I(None, a="x", b=7)], [A, DUP], ("x", 7, 0)),
    ("a second insert with other values", INT, [I(None, a="x"), I(None, a="y")], [A, C], ("x", 7, 0)),
    ("an insert is repeated after newer writes", INT,
        [I(1, a="x"), U(2, a="y"), I(1, a="x")], [A, A, DUP], ("y", 7, 0)),
    ("an insert that is older than the base is stale", INT, [U(2, a="x"), I(1, a="y")], [A, S], ("x", 7, 0)),
    ("an insert with the version of the base is stale", INT, [U(2, a="x"), I(2, a="x")], [A, S], ("x", 7, 0)),
    ("an insert without version of an existing row", INT, [U(2, a="x"), I(None, a="y")], [A, S], ("x", 7, 0)),
    ("an insert that is newer than the base acts as an upsert", INT,
        [U(2, a="x"), I(3, a="y"), I(3, a="y")], [A, A, DUP], ("y", 7, 0)),
    ("an insert keeps newer merged fields", INT, [M(3, a="x"), I(2, a="y", b=1)], [A, A], ("x", 1, 0)),
    ("an insert has the version of a merged field, but another value", INT,
        [M(2, a="x"), I(2, a="y")], [A, C], ("x", 7, 0)),
    ("an insert without version keeps merged fields", INT,
        [M(3, a="x"), I(None, a="y", b=1)], [A, A], ("x", 1, 0)),
    ("an insert keeps counters", INT, [INC(5), I(None, a="y")], [A, A], ("y", 7, 5)),
    ("an insert that is older than a tombstone, or that has no version", INT,
        [D(3), I(2, a="x"), I(None, a="x")], [A, S, S], GONE),
    ("an insert that is newer than a tombstone", INT, [D(3), I(4, a="x")], [A, A], ("x", 7, 0)),
    ("an insert after a delete, which removed the hash of the first insert", INT,
        [I(1, a="x"), D(2), I(3, a="y")], [A, A, A], ("y", 7, 0)),
    ("a newer delete wins", INT, [U(1, a="x"), D(2)], [A, A], GONE),
    ("an older delete is stale", INT, [U(2, a="x"), D(1)], [A, S], ("x", 7, 0)),
    ("a delete of an absent row leaves a tombstone", INT, [D(2), U(1), M(1, a="x")], [A, S, S], GONE),
    ("a repeated delete and an older delete", INT, [D(2), D(2), D(1)], [A, DUP, S], GONE),
    ("a delete wins over writes with equal version", INT,
        [U(2, a="x"), D(2), U(2, a="x"), M(2, a="x")], [A, A, S, S], GONE),
    ("a delete that arrives first wins over writes with equal version", INT,
        [D(2), U(2), M(2, a="x")], [A, S, S], GONE),
    ("a delete wins over a merge with equal version", INT,
        [M(2, a="x"), M(3, b=1), D(2), M(2, a="x")], [A, A, A, S], (None, 1, 0)),
    ("a delete keeps a newer field", INT, [M(3, b=1), D(2), U(2, a="x")], [A, A, S], (None, 1, 0)),
    ("a repeated delete keeps a newer field", INT, [M(3, b=1), D(2), D(2)], [A, A, DUP], (None, 1, 0)),
    ("of a delete and an upsert with equal times, the later arrival wins", TIME,
        [U(2, a="x"), D(2), U(2, a="x")], [A, A, A], ("x", 7, 0)),
    ("first: an upsert with equal time and other values", FIRST,
        [U(2, a="x"), U(2, a="y")], [A, S], ("x", 7, 0)),
    ("first: an upsert with equal time and equal values", FIRST,
        [U(2, a="x"), U(2, a="x")], [A, DUP], ("x", 7, 0)),
    ("first: upserts with different times follow the usual rules", FIRST,
        [U(2, a="x"), U(3, a="y"), U(1, a="z")], [A, A, S], ("y", 7, 0)),
    ("first: an upsert keeps a field with equal time", FIRST,
        [M(2, a="x"), U(2, a="y", b=1)], [A, A], ("x", 1, 0)),
    ("first: a repeated upsert keeps a field with equal time", FIRST,
        [M(2, a="x"), U(2, a="y", b=1), U(2, a="y", b=1)], [A, A, DUP], ("x", 1, 0)),
    ("first: an upsert with a later time writes the field", FIRST,
        [M(2, a="x"), U(2, a="y", b=1), U(3)], [A, A, A], (None, 7, 0)),
    ("first: a merge with equal time and another value", FIRST,
        [M(2, a="x"), M(2, a="y")], [A, S], ("x", 7, 0)),
    ("first: a merge with equal time and equal value", FIRST,
        [M(2, a="x"), M(2, a="x")], [A, DUP], ("x", 7, 0)),
    ("first: a merge with equal time writes only its other field", FIRST,
        [M(2, a="x"), M(2, a="y", b=1)], [A, A], ("x", 1, 0)),
    ("first: a merge with the time of the base and another value", FIRST,
        [U(2, a="x"), M(2, a="y")], [A, S], ("x", 7, 0)),
    ("first: a merge with the time of the base and equal value", FIRST,
        [U(2, a="x"), M(2, a="x")], [A, DUP], ("x", 7, 0)),
    ("first: an insert with the time of the base", FIRST, [U(2, a="x"), I(2, a="y")], [A, S], ("x", 7, 0)),
    ("first: an insert keeps a field with equal time", FIRST,
        [M(2, a="x"), I(2, a="y", b=1)], [A, A], ("x", 1, 0)),
    ("first: an upsert with the time of an insert", FIRST, [I(2, a="x"), U(2, a="y")], [A, S], ("x", 7, 0)),
    ("first: a second insert with other values is a conflict", FIRST,
        [I(2, a="x"), I(2, a="y")], [A, C], ("x", 7, 0)),
    ("first: a delete with the time of the row", FIRST, [U(2, a="x"), D(2)], [A, S], ("x", 7, 0)),
    ("first: writes with equal time after a delete", FIRST,
        [D(2), U(2, a="x"), M(2, a="x"), I(2, a="x"), D(2)], [A, S, S, S, DUP], GONE),
    ("first: an upsert with equal time after a delete of the row", FIRST,
        [U(1, a="x"), D(2), U(2, a="x")], [A, A, S], GONE),
    ("first: a delete keeps a field with equal time, so the row remains", FIRST,
        [U(1, a="y", b=1), M(2, a="x"), D(2), M(2, b=2), U(2, b=2), D(2)],
        [A, A, A, S, S, DUP], ("x", 7, 0)),
    ("first: an upsert without version is applied", FIRST,
        [U(2, a="x"), U(None, a="y")], [A, A], ("y", 7, 0)),
    ("a delete without version", INT,
        [U(5, a="x"), M(7, b=1), D(None), U(7), U(8)], [A, A, A, S, A], (None, 7, 0)),
    ("a delete resets counters", INT, [INC(5), D(2), U(3)], [A, A, A], (None, 7, 0)),
    ("a delete resets counters even if the row remains", INT,
        [INC(5), M(3, b=1), D(2)], [A, A, A], (None, 1, 0)),
    ("increments begin at the default", INT, [INC(5), INC(-2)], [A, A], (None, 7, 3)),
    ("an increment of a deleted row is stale", INT, [INC(5), D(1), INC(1)], [A, A, S], GONE),
    ("an increment changes no version", INT, [U(2, a="x"), INC(1), U(2, a="x")], [A, A, DUP], ("x", 7, 1)),
    ("an increment down to the floor", INT, [INC(5), INC(-5, 0)], [A, A], (None, 7, 0)),
    ("an increment below the floor changes nothing", INT, [INC(5), INC(-6, 0)], [A, None], (None, 7, 5)),
    ("an increment of an absent row below the floor", INT, [INC(-1, 0)], [None], GONE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "steps", "results", "values"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_writes_have_results_and_leave_a_row(
    shape: Shape, steps: list[tuple[Any, ...]], results: list[WriteResult | None], values: Any
) -> None:
    row, met = ABSENT, []
    for function, *arguments in steps:
        before = row
        result, row = function(shape, row, *arguments)
        met.append(result)
        assert result is WriteResult.APPLIED or row is before, "only an applied write changes the row"
    assert met == results
    assert (None if row.values is None else tuple(row.values[name] for name in ("a", "b", "count"))) == values


def test_a_merged_row_keeps_the_versions_of_newer_fields() -> None:
    _, row = versioned_row.upsert(INT, ABSENT, {"a": "x", "b": 7}, 2)
    _, row = versioned_row.merge(INT, row, {"b": 1}, 4)
    assert (row.version, row.field_versions) == (2, {"b": 4})
    _, row = versioned_row.upsert(INT, row, {"a": "y", "b": 7}, 4)
    assert (row.version, row.field_versions) == (2, {"b": 4}), "b=7 at the same version is a conflict"
    _, row = versioned_row.upsert(INT, row, {"a": "y", "b": 7}, 5)
    assert (row.version, row.field_versions) == (5, {}), "versions at or below the base are not kept"
    _, row = versioned_row.delete(INT, row, 6)
    assert row == Row(tombstone=6)
    _, row = versioned_row.merge(INT, row, {"a": "z"}, 7)
    assert row == Row({"a": "z", "b": 7, "count": 0}, 6, {"a": 7}, None, 6), (
        "the tombstone's version is the base"
    )


def test_an_insert_stores_a_hash_of_its_values() -> None:
    _, row = versioned_row.insert(INT, ABSENT, {"a": "x", "b": 7}, None)
    assert isinstance(row.inserted_hash, UUID)
    assert row.version is None
    assert versioned_row.upsert(INT, row, {"a": "y", "b": 7}, 1)[1].inserted_hash == row.inserted_hash


def test_a_counter_value_that_the_column_cannot_store_is_refused() -> None:
    full = Row({"a": "", "b": 0, "count": 2**31 - 1})
    with pytest.raises(ValueRefused, match="outside"):
        versioned_row.increment(INT, full, {"count": 1}, None)
