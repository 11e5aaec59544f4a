"""Users' tables: what is added to them, and each refusal with the table and column it names."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Column, DateTime, Float, Integer, Interval, MetaData, Numeric, String, Table, func
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP
from sqlalchemy.types import CHAR, REAL

from sluice.db.tables import TableRefused, entity_table, shape_of


def key() -> Column[Any]:
    return Column("id", String(64), primary_key=True)


def required() -> Column[Any]:
    return Column("a", Integer, nullable=False)


def make(*columns: Column[Any], **options: Any) -> Table:
    return entity_table("boxes", MetaData(), *columns, **options)


def test_bookkeeping_columns_are_added() -> None:
    assert [c.name for c in make(key(), Column("a", Integer)).columns] == [
        "id",
        "a",
        "version",
        "inserted_hash",
    ]
    merged = make(key(), merged=True)
    assert [c.name for c in merged.columns] == ["id", "version", "inserted_hash", "field_versions"]
    assert all(merged.columns[name].nullable for name in ("version", "inserted_hash", "field_versions"))


def test_a_shape_knows_fields_counters_and_defaults() -> None:
    table = make(
        key(),
        Column("a", Integer, nullable=False),
        Column("b", Numeric(5, 2), default=1),
        Column("n", Integer, nullable=False, default=0),
        counters=("n",),
        deletable=True,
        versions="timestamp",
    )
    shape = shape_of(table)
    assert (shape.key, shape.fields, shape.row_columns) == ("id", ("a", "b"), ("a", "b", "n"))
    assert shape.counters == {"n"}
    assert shape.required == {"a", "n"}
    assert repr(shape.defaults) == "{'a': None, 'b': Decimal('1.00'), 'n': 0}", "as they are read back"
    assert (shape.versions, shape.merged, shape.deletable) == ("timestamp", False, True)


REFUSED: list[tuple[str, Callable[[], object], str]] = [
    ("no key", lambda: make(Column("a", Integer)), "table boxes needs exactly one primary-key column"),
    ("two keys", lambda: make(key(), Column("b", String, primary_key=True)), "exactly one primary-key"),
    ("a number as key", lambda: make(Column("id", Integer, primary_key=True)), "of a text type"),
    ("a name of ours", lambda: make(key(), Column("version", Integer)), "column version is kept by Sluice"),
    ("an unknown type", lambda: make(key(), Column("a", Interval)), "column a has type"),
    ("an array", lambda: make(key(), Column("a", ARRAY(Integer))), "not supported"),
    ("a time without zone", lambda: make(key(), Column("a", DateTime)), r"needs DateTime\(timezone=True\)"),
    ("a rounded time", lambda: make(key(), Column("a", TIMESTAMP(True, 3))), "pads or rounds"),
    ("a padded text", lambda: make(key(), Column("a", CHAR(3))), "pads or rounds"),
    ("a single float", lambda: make(key(), Column("a", REAL)), "pads or rounds"),
    ("a short float", lambda: make(key(), Column("a", Float(24))), "pads or rounds"),
    ("a server default", lambda: make(key(), Column("a", Integer, server_default="1")), "literal default"),
    (
        "a computed default",
        lambda: make(key(), Column("a", Integer, default=func.random())),
        "literal default",
    ),
    ("a default called", lambda: make(key(), Column("a", Integer, default=lambda: 1)), "literal default"),
    (
        "a default of another type",
        lambda: make(key(), Column("a", Integer, default="1")),
        "default of column a",
    ),
    ("a counter that is no column", lambda: make(key(), counters=("n",)), "counter n is no number column"),
    ("a text as counter", lambda: make(key(), Column("n", String, default=""), counters=("n",)), "no number"),
    (
        "a counter without default",
        lambda: make(key(), Column("n", Integer), counters=("n",)),
        "needs default=0",
    ),
    (
        "merged, required, no default",
        lambda: make(key(), required(), merged=True),
        "merged table boxes: column a",
    ),
    ("another schema", lambda: entity_table("boxes", MetaData(schema="x"), key()), "live in public"),
    ("a plain table", lambda: shape_of(Table("plain", MetaData(), key())), "was not made by entity_table"),
]


@pytest.mark.parametrize(("act", "text"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_refused(act: Callable[[], object], text: str) -> None:
    with pytest.raises(TableRefused, match=text):
        act()
