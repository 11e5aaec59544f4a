"""A value is converted to the form that Postgres returns, or refused. It never changes unnoticed."""

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import types
from sqlalchemy.dialects.postgresql import JSONB

from sluice.db.values import ValueRefused, add_exactly, bare_array, coercer, text_array, uuid_array
from tests.unit.tasks.strategies import EVERY_TYPE, every_type_values, json_values

NOON = datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=UTC)
UUID_1 = UUID(int=1)


class NoOffset(tzinfo):
    """A time zone whose offset is unknown. Python would use the zone of the computer instead."""

    def utcoffset(self, _when: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


class Mood(StrEnum):
    GLAD = "glad"


KEPT: list[tuple[types.TypeEngine[Any], Any, Any]] = [
    (types.Text(), "", ""),
    (types.String(2), "é🎉", "é🎉"),
    (types.SmallInteger(), -(2**15), -(2**15)),
    (types.Integer(), 2**31 - 1, 2**31 - 1),
    (types.BigInteger(), 2**63 - 1, 2**63 - 1),
    (types.Numeric(5, 2), Decimal("1.5"), Decimal("1.50")),
    (types.Numeric(5, 2), 7, Decimal("7.00")),
    (types.Numeric(5, 2), Decimal("-0"), Decimal("0.00")),
    (types.Numeric(5), Decimal("5E+1"), Decimal("50")),
    (types.Numeric(40, 2), Decimal("12345678901234567890123456789012345678.9"),
     Decimal("12345678901234567890123456789012345678.90")),
    (types.Numeric(), Decimal("1.10"), Decimal("1.10")),
    (types.Numeric(), Decimal("1E+3"), Decimal("1000")),
    (types.Float(), 3, 3.0),
    (types.Float(), 0.1, 0.1),
    (types.Boolean(), False, False),
    (types.DateTime(timezone=True), NOON.astimezone(timezone(timedelta(hours=5))), NOON),
    (types.Date(), date(1, 1, 1), date(1, 1, 1)),
    (types.Uuid(), UUID_1, UUID_1),
    (types.LargeBinary(), b"\0\\x", b"\0\\x"),
    (types.Enum("glad", "sad"), Mood.GLAD, "glad"),
    (types.JSON(), {"b": (1, 2), "a": None}, {"b": [1, 2], "a": None}),
    (types.JSON(), 1e23, 1e23),
    (types.JSON(), "\\u0000", "\\u0000"),
    (JSONB(), {"bb": 1, "a": 2, "é": 3}, {"a": 2, "bb": 1, "é": 3}),
    (JSONB(), [1e23, -0.0, 0.5, 1.0], [10**23, 0.0, 0.5, 1.0]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "kept"), KEPT, ids=lambda value: repr(value)[:30])
def test_a_value_is_converted_to_the_form_that_postgres_returns(
    kind: types.TypeEngine[Any], value: Any, kept: Any
) -> None:
    found = coercer(kind)(value)
    assert repr(found) == repr(kept), "equality is not enough: 1E+3 == 1000, but emitted events would differ"
    assert coercer(kind)(None) is None


REFUSED: list[tuple[types.TypeEngine[Any], Any, str]] = [
    (types.Text(), 1, "int 1 is no text"),
    (types.Text(), "a\0b", "NUL"),
    (types.Text(), "\ud800", "lone surrogate"),
    (types.String(2), "abc", "3 characters, the column holds 2"),
    (types.Integer(), "1", "no integer"),
    (types.Integer(), True, "no integer"),
    (types.Integer(), 1.0, "no integer"),
    (types.Integer(), 2**31, "outside the column's range, -2147483648 to 2147483647"),
    (types.SmallInteger(), 2**15, "outside"),
    (types.BigInteger(), -(2**63) - 1, "outside"),
    (types.Numeric(5, 2), 0.1, "float 0.1 is no decimal"),
    (types.Numeric(5, 2), "1", "no decimal"),
    (types.Numeric(5, 2), Decimal("1.001"), "too many decimal places: the column, .* keeps 2$"),
    (types.Numeric(5, 2), Decimal("1000"), r"too large: the column, numeric\(5, 2\), .* than 1000$"),
    (types.Numeric(5, 2), Decimal("NaN"), "^Decimal NaN is no finite"),
    (types.Numeric(), Decimal("Infinity"), "finite"),
    (types.Numeric(), Decimal("1E+131072"), "more digits than Postgres holds"),
    (types.Numeric(), Decimal("1E-16384"), "more digits than Postgres holds"),
    (types.Float(), float("nan"), "finite"),
    (types.Float(), "1", "number"),
    (types.Float(), 2**53 + 1, "between two floats"),
    (types.Float(), 10**400, "no float"),
    (types.Boolean(), 1, "no bool"),
    (types.DateTime(timezone=True), NOON.replace(tzinfo=None),
     r"the time 2026-01-01T12:00:00.000001 has no UTC offset, such as Z"),
    (types.DateTime(timezone=True), NOON.replace(tzinfo=NoOffset()), "has no UTC offset"),
    (types.DateTime(timezone=True), "2026-01-01T00:00:00Z", "offset"),
    (types.DateTime(timezone=True), datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "four digits"),
    (types.Date(), NOON, r"^datetime 2026-01-01 12:00:00\S* is no date$"),
    (types.Uuid(), str(UUID_1), "no UUID"),
    (types.LargeBinary(), "x", "no bytes"),
    (types.Enum("glad", "sad"), "angry", "one of"),
    (types.Enum("glad", "sad"), [], "one of"),
    (types.JSON(), ..., "JSON value"),
    (types.JSON(), {"a": ["\0"]}, "NUL"),
    (JSONB(), {"\0": 1}, "NUL"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "text"), REFUSED, ids=lambda value: repr(value)[:30])
def test_a_value_that_the_column_cannot_store_exactly_is_refused(
    kind: types.TypeEngine[Any], value: Any, text: str
) -> None:
    with pytest.raises(ValueRefused, match=text):
        coercer(kind)(value)


@given(every_type_values)
def test_a_converted_value_is_converted_to_itself(values: dict[str, Any]) -> None:
    for name, value in values.items():
        coerce = coercer(EVERY_TYPE.columns[name].type)
        once = coerce(value)
        assert repr(coerce(once)) == repr(once)


@given(json_values)
def test_json_keeps_its_meaning(value: Any) -> None:
    assert coercer(types.JSON())(value) == value
    # 1e23 and 10**23 are the same number in JSON, but two numbers in Python.
    in_floats = coercer(types.JSON(none_as_null=True))(coercer(JSONB())(value))
    assert repr(coercer(JSONB())(in_floats)) == repr(coercer(JSONB())(value))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**30), max_value=10**30))
def test_sums_are_never_rounded(number: Decimal) -> None:
    assert add_exactly(add_exactly(number, Decimal("0.01")), number.copy_negate()) == Decimal("0.01")


def test_arrays_quote_texts_that_postgres_would_misread() -> None:
    assert (
        text_array(["a", None, "NULL", 'say "\\"', "{,}", ""])
        == '{"a",NULL,"NULL","say \\"\\\\\\"","{,}",""}'
    )
    assert bare_array([1, -2]) == "{1,-2}"
    assert text_array([]) == bare_array([]) == uuid_array([]) == "{}"
    assert text_array([None]) == "{NULL}"
    assert uuid_array([UUID_1, UUID_1]) == f"{{{UUID_1.hex},{UUID_1.hex}}}"


@given(st.lists(st.none() | st.text(alphabet=st.sampled_from('ab"\\,\0{} ')), max_size=5))
def test_an_array_has_one_element_for_each_text(texts: list[str | None]) -> None:
    one_by_one = [text_array([text])[1:-1] for text in texts]
    assert text_array(texts) == "{" + ",".join(one_by_one) + "}"
