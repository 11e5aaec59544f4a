"""Values of columns: what a handler may write, brought to the very form in which Postgres gives it back."""

import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import types

Coercer = Callable[[Any], Any]

_INTEGER_BITS = {types.SmallInteger: 15, types.Integer: 31, types.BigInteger: 63}


class ValueRefused(ValueError):
    """A value that its column cannot hold as it is. The event's fault."""


def coercer(column_type: types.TypeEngine[Any]) -> Coercer:
    """The function that checks a value for a column and brings it to the form it is read back in.

    No silent coercion: what Postgres would round, cut or reinterpret raises ValueRefused. None passes;
    whether a column may be null is not the type's business.
    """
    check = _checker(column_type)

    def coerce(value: Any) -> Any:
        return None if value is None else check(value)

    return coerce


def _checker(kind: types.TypeEngine[Any]) -> Coercer:
    # Enum is a String and Boolean no Integer to SQLAlchemy: the narrower first.
    if isinstance(kind, types.Enum):
        return _one_of(frozenset(kind.enums))
    if isinstance(kind, types.String):
        return _text(kind.length)
    if isinstance(kind, types.Boolean):
        return _exactly(bool)
    if isinstance(kind, types.Integer):
        bits = next(bits for base, bits in _INTEGER_BITS.items() if isinstance(kind, base))
        bits = 63 if isinstance(kind, types.BigInteger) else bits
        return _integer(-(2**bits), 2**bits - 1)
    if isinstance(kind, types.Float):
        return _float
    if isinstance(kind, types.Numeric):
        return _decimal(kind.precision, kind.scale)
    if isinstance(kind, types.DateTime):
        return _timestamp
    if isinstance(kind, types.Date):
        return _date
    if isinstance(kind, types.Uuid):
        return _exactly(UUID)
    if isinstance(kind, types.LargeBinary):
        return _exactly(bytes)
    return _json


def _refuse(value: Any, wanted: str) -> ValueRefused:
    return ValueRefused(f"{type(value).__name__} {value!r:.80} is no {wanted}")


def _exactly(kind: type) -> Coercer:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise _refuse(value, kind.__name__)
        return value

    return check


def _one_of(values: frozenset[str]) -> Coercer:
    def check(value: Any) -> Any:
        if value not in values:
            raise _refuse(value, f"one of {sorted(values)}")
        return value

    return check


def _text(length: int | None) -> Coercer:
    def check(value: Any) -> Any:
        if type(value) is not str:
            raise _refuse(value, "text")
        if length is not None and len(value) > length:
            raise ValueRefused(f"text of {len(value)} characters, the column holds {length}")
        return value

    return check


def _integer(low: int, high: int) -> Coercer:
    def check(value: Any) -> Any:
        if type(value) is not int:
            raise _refuse(value, "integer")
        if not low <= value <= high:
            raise ValueRefused(f"integer {value} is outside the column's range")
        return value

    return check


def _float(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise _refuse(value, "number")
    if not math.isfinite(value):
        raise _refuse(value, "finite number")
    return float(value)


def _decimal(precision: int | None, scale: int | None) -> Coercer:
    step = None if precision is None else Decimal(1).scaleb(-(scale or 0))
    limit = None if precision is None else Decimal(10) ** (precision - (scale or 0))

    def check(value: Any) -> Decimal:
        # A float is no amount: 0.1 + 0.2 has seventeen digits of somebody's money.
        if type(value) is not Decimal and type(value) is not int:
            raise _refuse(value, "decimal")
        number = Decimal(value)
        if not number.is_finite():
            raise _refuse(value, "finite decimal")
        if step is None or limit is None:
            return number
        if abs(number) >= limit:
            raise ValueRefused(f"decimal {number} has more digits than the column holds")
        rounded = number.quantize(step)
        if rounded != number:
            raise ValueRefused(f"decimal {number} has more decimal places than the column keeps")
        return rounded

    return check


def _timestamp(value: Any) -> datetime:
    if type(value) is not datetime or value.tzinfo is None:
        raise _refuse(value, "datetime with an offset")
    return value.astimezone(UTC)


def _date(value: Any) -> date:
    if type(value) is not date:
        raise _refuse(value, "date")
    return value


def _json(value: Any) -> Any:
    # Through JSON and back: what is compared later is what will be stored.
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, msgspec.MsgspecError) as error:
        raise _refuse(value, "JSON value") from error
