"""Compares a column of a users' table in Postgres with its declaration. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from sqlalchemy import Column
from sqlalchemy.types import Enum, Numeric, String

from sluice.db.admin.stored_tables import StoredColumn
from sluice.db.table_rules import DIALECT
from sluice.runtime.terminal_text import counted

_INTEGER_BITS = {"smallint": 15, "integer": 31, "bigint": 63}
_TEXTS = ("character varying", "text", "citext")
_NAMES = {"varchar": "character varying", "decimal": "numeric", "float": "double precision"}
_HEADER = 4  # bytes that Postgres counts in a modifier beside the length
_MICROSECONDS = 6  # digits
_LETTER = "would make its event a dead letter"


@dataclass(frozen=True)
class Difference:
    """How a column differs. `loses` is True if a declared value would be refused or changed."""

    loses: bool
    consequence: str
    change: str | None = None
    """The end of an ALTER COLUMN that removes the difference; None for a change of the type."""
    missing_labels: Sequence[str] = ()
    """The labels that the enum in Postgres lacks."""


def column_differences(column: Column[Any], stored: StoredColumn, *, is_view: bool) -> Iterator[Difference]:
    """Yields the differences. A view has no constraints and no defaults."""
    difference = _type_difference(column, stored)
    if difference is not None:
        yield difference
    elif column.primary_key and not stored.is_distinct:
        yield Difference(
            True, "its collation treats different texts as equal, and so two keys would be one key"
        )
    if stored.generated is not None:
        yield Difference(
            True,
            "Postgres computes its value and refuses any other value, so no row can be added",
            f"DROP {stored.generated}",
        )
    if is_view or column.primary_key:
        return
    if stored.not_null and column.nullable:
        yield Difference(
            True, f"a row that leaves it empty {_LETTER}", None if stored.is_domain else "DROP NOT NULL"
        )
    elif not column.nullable and not stored.not_null:
        yield Difference(False, "other programs may leave it empty", "SET NOT NULL")


def rendered_type(column: Column[Any]) -> str:
    """Returns the declared type as SQL."""
    return str(column.type.compile(dialect=DIALECT))


def is_same_family(column: Column[Any], stored: StoredColumn) -> bool:
    """Returns True if the values of one type are also values of the other type, as long as they fit."""
    return _family(_declared(column)) == _family(stored.type)


def _declared(column: Column[Any]) -> str:
    """Returns the name of the declared type in Postgres, without modifiers."""
    name = re.sub(r"\(.*?\)| COLLATE .*", "", rendered_type(column)).lower()
    return _NAMES.get(name, name)


def _family(name: str) -> str:
    if name in _INTEGER_BITS:
        return "integer"
    return "text" if name in _TEXTS else name


def _type_difference(column: Column[Any], stored: StoredColumn) -> Difference | None:
    kind, declared = column.type, _declared(column)
    if isinstance(kind, Enum) and stored.labels is not None:
        return _enum_difference(kind.enums, stored)
    if isinstance(kind, Enum) and kind.native_enum and stored.type in _TEXTS:
        return _text_difference(max(map(len, kind.enums)), stored) or _WIDER
    if not is_same_family(column, stored):
        return Difference(True, _CONSEQUENCES.get((_family(declared), stored.type), _OTHER_FAMILY))
    if isinstance(kind, String):
        if (stored.type == "citext") != (declared == "citext"):
            return _case_difference(stored, is_key=column.primary_key)
        return _text_difference(kind.length, stored)
    if declared in _INTEGER_BITS:
        return _integer_difference(_INTEGER_BITS[declared], _INTEGER_BITS[stored.type])
    if isinstance(kind, Numeric) and declared == "numeric":
        return _numeric_difference(kind, stored.modifier)
    if declared == "timestamp with time zone" and 0 <= stored.modifier < _MICROSECONDS:
        return Difference(
            True,
            f"a time would be rounded to {counted(stored.modifier, 'digit')} of a second",
        )
    return None


_WIDER = Difference(False, "other programs may write values that the declaration does not permit")
_OTHER_FAMILY = "values of one type are refused by the other, or come back as other values"
_CONSEQUENCES = {
    ("text", "character"): "a text would be padded with spaces",
    ("numeric", "real"): "0.1 would come back as a binary fraction",
    ("numeric", "double precision"): "0.1 would come back as a binary fraction",
    ("double precision", "real"): "1.23456789 would be stored as 1.2345679",
    ("timestamp with time zone", "timestamp without time zone"): "a time would lose its offset from UTC",
    ("timestamp with time zone", "date"): "2026-01-31 12:30 would be stored as 2026-01-31",
    ("json", "jsonb"): "a document would not keep the order of its names",
    ("jsonb", "json"): "documents could not be compared or indexed",
    **{("numeric", integer): "1.5 would be stored as 2" for integer in _INTEGER_BITS},
}


def _enum_difference(labels: Sequence[str], stored: StoredColumn) -> Difference | None:
    known = stored.labels or ()
    if missing := [label for label in labels if label not in known]:
        return Difference(True, f"the value {missing[0]} {_LETTER}", missing_labels=missing)
    return _WIDER if set(known) > set(labels) else None


def _case_difference(stored: StoredColumn, *, is_key: bool) -> Difference:
    if stored.type != "citext":
        return Difference(False, "it distinguishes texts that differ only in case")
    if is_key:
        return Difference(True, "two keys that differ only in case would be one")
    return Difference(False, "it treats texts that differ only in case as equal")


def _text_difference(length: int | None, stored: StoredColumn) -> Difference | None:
    limit = stored.modifier - _HEADER if stored.modifier >= 0 else None
    if limit == length:
        return None
    if limit is not None and (length is None or limit < length):
        return Difference(True, f"a text of more than {counted(limit, 'character')} {_LETTER}")
    return _WIDER


def _integer_difference(declared_bits: int, stored_bits: int) -> Difference | None:
    if stored_bits < declared_bits:
        return Difference(True, f"a number above {2**stored_bits - 1} {_LETTER}")
    return _WIDER if stored_bits > declared_bits else None


def _numeric_difference(declared: Numeric[Any], modifier: int) -> Difference | None:
    if modifier < 0:
        return None if declared.precision is None else _WIDER
    # As numeric.c packs them; the scale has a sign.
    digits = (modifier - _HEADER) >> 16
    scale = (((modifier - _HEADER) & 0x7FF) ^ 0x400) - 0x400
    if declared.precision is None or (declared.scale or 0) > scale:
        return Difference(True, _rounded(scale, declared.scale if declared.precision else None))
    before_point = digits - scale
    if before_point < declared.precision - (declared.scale or 0):
        return Difference(
            True,
            f"a number of more than {counted(before_point, 'digit')} before the point {_LETTER}",
        )
    return None if (digits, scale) == (declared.precision, declared.scale or 0) else _WIDER


def _rounded(scale: int, declared_scale: int | None) -> str:
    places = scale + 2 if declared_scale is None else min(scale + 2, declared_scale)
    value = Decimal("1." + ("23456789" * places)[: max(places, 1)])
    stored = value.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP)
    return f"{value} would be stored as {stored:f}"
