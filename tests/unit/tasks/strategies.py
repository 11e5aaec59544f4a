"""Hypothesis strategies for the tables, writes and values that several tests share."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

from sluice.db.tables import Versions, entity_table, shape_of

metadata = MetaData()


def whole(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that an Upsert requires: every column, with the default where no value is given."""
    shape = shape_of(table)
    return {name: values.get(name, shape.defaults[name]) for name in shape.fields}


def _fields() -> tuple[Column[Any], ...]:
    return (
        Column("id", String(255), primary_key=True),
        Column("a", String(20)),
        Column("b", Integer, nullable=False, default=7),
        Column("count", Integer, nullable=False, default=0),
    )


# Tables with every option set, one table per kind of version.
MERGED: dict[Versions, Table] = {
    versions: entity_table(
        f"merged_{versions}",
        metadata,
        *_fields(),
        versions=versions,
        merged=True,
        deletable=True,
        counters=("count",),
    )
    for versions in ("integer", "timestamp")
}
FIRST_WINS = entity_table(
    "first_wins",
    metadata,
    *_fields(),
    versions="timestamp",
    equal_versions="first",
    merged=True,
    deletable=True,
    counters=("count",),
)
"""Like the table with timestamp versions, but the first of two writes with equal versions wins."""

PLAIN = entity_table("plain", metadata, *_fields(), counters=("count",))
"""A table that is neither merged nor deletable."""

_MOOD = Enum("glad", "sad", "it's complicated", name="mood")


def _every_type() -> tuple[Column[Any], ...]:
    return (
        Column("The key", String(255), primary_key=True),
        Column("Quoted name", Text),
        Column("short", String(5)),
        Column("small", SmallInteger),
        Column("integer", Integer),
        Column("big", BigInteger),
        Column("money", Numeric(12, 2)),
        Column("number", Numeric),
        Column("float", Float),
        Column("yes", Boolean),
        Column("at", DateTime(timezone=True)),
        Column("day", Date),
        Column("uuid", Uuid),
        Column("bytes", LargeBinary),
        Column("json", JSON),
        Column("jsonb", JSONB),
        Column("mood", _MOOD),
    )


EVERY_TYPE = entity_table("every type", metadata, *_every_type(), merged=True, deletable=True)
EVERY_TYPE_KEPT = entity_table("every type kept", metadata, *_every_type())
"""A table of the same columns that is neither merged nor deletable."""

TIMED = entity_table("timed", metadata, *_fields(), versions="timestamp", counters=("count",))
TIMED_FIRST = entity_table(
    "timed_first", metadata, *_fields(), versions="timestamp", equal_versions="first", counters=("count",)
)
MERGED_KEPT = entity_table("merged_kept", metadata, *_fields(), merged=True, counters=("count",))
"""Tables whose rows are never deleted."""

AWKWARD_TEXTS = (
    "",
    " ",
    "NULL",
    "null",
    "{}",
    "{a,b}",
    '"',
    "'",
    "\\",
    '\\"',
    "a\nb\t",
    "é漢🎉",
    "\\x00",
    "%s",
    "$1",
    ":x",
)

texts = st.sampled_from(AWKWARD_TEXTS) | st.text(
    st.characters(exclude_characters="\0", codec="utf-8"), max_size=12
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
_offsets = st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours)))
_moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=_offsets | st.just(UTC))  # noqa: DTZ001
# fold=1 marks a repeated hour of a local time zone. A fixed offset has none, so fold is always 0 here.
datetimes = _moments.map(lambda moment: moment.replace(fold=0))

_OF_EVERY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "Quoted name": texts,
    "short": texts.filter(lambda text: len(text) <= 5),
    "small": st.integers(-(2**15), 2**15 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "big": st.integers(-(2**63), 2**63 - 1),
    "money": st.decimals(Decimal("-9999999999.99"), Decimal("9999999999.99"), places=2) | st.integers(-9, 9),
    "number": st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40),
    "float": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
    "yes": st.booleans(),
    "at": datetimes,
    "day": st.dates(date(1, 1, 1), date(9999, 12, 31)),
    "uuid": st.uuids(),
    "bytes": st.binary(max_size=8),
    "json": json_values,
    "jsonb": json_values,
    "mood": st.sampled_from(("glad", "sad", "it's complicated")),
}
every_type_values: st.SearchStrategy[Mapping[str, Any]] = st.fixed_dictionaries(
    {}, optional={name: st.none() | of for name, of in _OF_EVERY_TYPE.items()}
)
"""Some columns of EVERY_TYPE."""

few_values: st.SearchStrategy[Mapping[str, Any]] = st.fixed_dictionaries(
    {}, optional={"a": st.sampled_from((None, "x", "y")), "b": st.integers(0, 2)}
)
"""Some columns of MERGED and PLAIN, with so few values that values repeat."""
