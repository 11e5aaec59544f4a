"""Typed data is never coerced; generic data is passed on unchanged."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypedDict

import msgspec
import pytest

from sluice.tasks.api import JsonObject
from sluice.tasks.events.decode import DecodeError, convert_data
from sluice.tasks.events.payload import payload_type_flaw


class Line(msgspec.Struct, frozen=True, rename="camel"):
    """A nested struct with an exact amount and renamed fields."""

    unit_price: Decimal


class Amounts(msgspec.Struct, frozen=True):
    """A data type that a handler may declare."""

    cents: int
    rate: float = 0.0
    price: Decimal | None = None
    note: str | None = None
    lines: tuple[Line, ...] = ()
    by_year: dict[int, Decimal] = {}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"cents": 1.5},
        {"cents": 1.0},
        {"cents": True},
        {"cents": "1"},
        {"cents": None},
        {"cents": 1, "note": 2},
        {"cents": 1, "rate": "0.5"},
        {"cents": 1, "price": 2.5},
        {"cents": 1, "price": "NaN"},
        {"cents": 1, "price": "-Infinity"},
        {"cents": 1, "price": True},
        {"cents": 1, "lines": [{"unitPrice": "1"}, {"unitPrice": 1.0}]},
        {"cents": 1, "by_year": {"2024": 0.1}},
        [],
        None,
    ],
)
def test_data_is_never_coerced(data: object) -> None:
    with pytest.raises(DecodeError, match="invalid data"):
        convert_data(data, Amounts)


def test_matching_data_is_converted() -> None:
    data = {"cents": 1, "rate": 0.5, "price": "2.50", "lines": [{"unitPrice": 3}], "by_year": {"2024": "1"}}
    expected = Amounts(1, 0.5, Decimal("2.50"), None, (Line(Decimal(3)),), {2024: Decimal(1)})
    assert convert_data(data | {"unknown": 0.1}, Amounts) == expected


@pytest.mark.parametrize("kind", [Any, dict, JsonObject, dict[str, Any]])
def test_generic_data_is_passed_on_unchanged(kind: Any) -> None:
    data = {"cents": 0.1}
    assert convert_data(data, kind) is data


class Plain:
    """A class that msgspec cannot decode."""


class Pair(msgspec.Struct, array_like=True):
    """Data that msgspec encodes as a JSON list."""

    first: int


class Nested(msgspec.Struct):
    """A struct with one unsupported field."""

    inner: list[Plain]


@dataclass
class Data:
    """A dataclass."""

    cents: int


class Typed(TypedDict):
    """A typed dict."""

    cents: int


@pytest.mark.parametrize(
    "kind",
    [Amounts, Data, Typed, Any, object, dict, JsonObject, dict[str, int], Mapping[str, int], Amounts | None],
)
def test_a_type_for_a_json_object_is_accepted(kind: Any) -> None:
    assert payload_type_flaw(kind) is None


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Plain, "a JSON object"),
        (Pair, "a JSON object"),
        (int, "a JSON object"),
        (list[Amounts], "a JSON object"),
        (Nested, "JSON has no values of type Plain"),
        (dict[str, Plain], "JSON has no values of type Plain"),
        (Amounts | Nested, "multiple Struct types"),
    ],
)
def test_an_unsupported_type_is_refused_with_the_reason(kind: Any, why: str) -> None:
    assert why in (payload_type_flaw(kind) or "")
