"""Converts column values to the form in which Postgres returns them. Also makes arrays for statements."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Context, Decimal
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import types
from sqlalchemy.dialects.postgresql import JSONB

from sluice.db.json_text import NotJson, encoded_json, holds_nul

Coercer = Callable[[Any], Any]
T = TypeVar("T")

# The most digits before and after the decimal point of a numeric without precision (manual, chapter 8.1).
_DIGITS_BEFORE, _DIGITS_AFTER = 131_072, 16_383
# A precision for every numeric. The default precision of 28 digits would round a numeric(40, 2).
_EXACT = Context(prec=_DIGITS_BEFORE + _DIGITS_AFTER)

_INTEGER_BITS = {types.SmallInteger: 15, types.Integer: 31, types.BigInteger: 63}


class ValueRefused(ValueError):
    """Raised for a value that its column cannot store exactly. The event is at fault."""


def coercer(column_type: types.TypeEngine[Any]) -> Coercer:
    """Returns a function that checks a value for a column, and converts it to the form that Postgres returns.

    The function raises ValueRefused for a value that Postgres would round, cut or change. It accepts None,
    because another check covers NOT NULL.
    """
    check = _checker(column_type)
    if isinstance(column_type, types.String | types.Integer) and not isinstance(column_type, types.Enum):
        return check  # It accepts None itself, because most columns are of these types.

    def coerce(value: Any) -> Any:
        return None if value is None else check(value)

    return coerce


def _checker(kind: types.TypeEngine[Any]) -> Coercer:
    # The order matters, because in SQLAlchemy Enum is a subclass of String.
    if isinstance(kind, types.Enum):
        return _one_of(kind)
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
    return (lambda value: _as_jsonb(_json(value))) if isinstance(kind, JSONB) else _json


def add_exactly(number: Any, delta: Any) -> Any:
    """Returns the exact sum of two values of one number column."""
    return _EXACT.add(number, delta) if type(number) is Decimal else number + delta


def _refuse(value: Any, wanted: str) -> ValueRefused:
    # The representation of these classes repeats the name of the class.
    shown = str(value) if isinstance(value, date | Decimal | UUID) else repr(value)
    return ValueRefused(f"{type(value).__name__} {shown:.80} is no {wanted}")


def _exactly(kind: type) -> Coercer:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise _refuse(value, kind.__name__)
        return value

    return check


def _one_of(kind: types.Enum) -> Coercer:
    plain = {value: value for value in kind.enums}
    enum_class = kind.enum_class
    # SQLAlchemy stores a member as its name, or as the text that `values_callable` returns for it.
    stored: dict[Any, str] = {}
    if enum_class is not None:
        members = list(enum_class)
        if len(members) != len(kind.enums):  # the labels include aliases of members
            members = list(enum_class.__members__.values())
        stored = dict(zip(members, kind.enums, strict=True))

    def check(value: Any) -> Any:
        # Members are checked first, because a member of a StrEnum is also a text, which may equal another
        # label.
        if enum_class is not None and isinstance(value, enum_class):
            return stored[value]
        if not isinstance(value, str) or value not in plain:
            raise ValueRefused(f"{type(value).__name__} {value!r:.80} is not one of {sorted(plain)}")
        return plain[value]

    return check


def _text(length: int | None) -> Coercer:
    def check(value: Any) -> Any:
        if type(value) is not str:
            if value is None:
                return None
            raise _refuse(value, "text")
        if length is not None and len(value) > length:
            raise ValueRefused(f"text of {len(value)} characters, the column holds {length}")
        if "\0" in value or not (value.isascii() or is_encodable(value)):
            raise ValueRefused(
                f"text {value!r:.80} holds NUL or a lone surrogate, which Postgres cannot store"
            )
        return value

    return check


def is_encodable(text: str) -> bool:
    """Returns True if the text has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _integer(low: int, high: int) -> Coercer:
    def check(value: Any) -> Any:
        if type(value) is not int:
            if value is None:
                return None
            raise _refuse(value, "integer")
        if not low <= value <= high:
            raise ValueRefused(f"integer {value} is outside the column's range, {low} to {high}")
        return value

    return check


def _float(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise _refuse(value, "number")
    if type(value) is float and not math.isfinite(value):
        raise _refuse(value, "finite number")
    try:
        number = float(value)
    except OverflowError:
        raise _refuse(value, "float") from None
    if number != value:
        raise ValueRefused(f"integer {value} is between two floats, so a float cannot store it exactly")
    return number


def _decimal(precision: int | None, scale: int | None) -> Coercer:
    places = scale or 0
    step = None if precision is None else Decimal(1).scaleb(-places)
    limit = None if precision is None else Decimal(10) ** (precision - places)

    def check(value: Any) -> Decimal:
        # Floats are refused, because they are not exact: 0.1 + 0.2 has seventeen digits.
        if type(value) is not Decimal and type(value) is not int:
            raise _refuse(value, "decimal")
        number = Decimal(value)
        if not number.is_finite():
            raise _refuse(value, "finite decimal")
        if step is None or limit is None:
            return _unbounded(number)
        if abs(number) >= limit:
            raise ValueRefused(
                f"decimal {number} is too large: the column, numeric({precision}, {places}), holds numbers"
                f" nearer to 0 than {limit:f}"
            )
        rounded = number.quantize(step, context=_EXACT)
        if rounded != number:
            raise ValueRefused(
                f"decimal {number} has too many decimal places: the column, numeric({precision}, {places}),"
                f" keeps {places}"
            )
        return _positive_zero(rounded)

    return check


def _unbounded(number: Decimal) -> Decimal:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int), "finite"
    if number.adjusted() >= _DIGITS_BEFORE or -exponent > _DIGITS_AFTER:
        raise ValueRefused(f"decimal {number:.30} has more digits than Postgres holds")
    # Postgres returns no exponents: 1E+3 is read back as 1000.
    plain = number.quantize(Decimal(1), context=_EXACT) if exponent > 0 else number
    return _positive_zero(plain)


def _positive_zero(number: Decimal) -> Decimal:
    return number if number else number.copy_abs()


def _timestamp(value: Any) -> datetime:
    if type(value) is not datetime:
        raise _refuse(value, "datetime with a UTC offset")
    if value.utcoffset() is None:
        raise ValueRefused(f"the time {value.isoformat()} has no UTC offset, such as Z or +02:00")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise _refuse(value, "datetime whose year in UTC has four digits") from None


def _date(value: Any) -> date:
    if type(value) is not date:
        raise _refuse(value, "date")
    return value


def _json(value: Any) -> Any:
    # The value is encoded and decoded, so that later comparisons use the form that is stored.
    try:
        encoded = encoded_json(value)
    except NotJson as error:
        raise ValueRefused(str(error)) from None
    plain = msgspec.json.decode(encoded)
    if b"\\u0000" in encoded and holds_nul(plain):
        raise ValueRefused(f"JSON {value!r:.80} holds NUL, which Postgres cannot store")
    return plain


def _as_jsonb(value: Any) -> Any:
    """Returns the value as jsonb returns it.

    Keys are ordered by length, and numbers have no exponent and no negative zero.
    """
    if type(value) is dict:
        by_length = sorted(value.items(), key=lambda item: (len(key := item[0].encode()), key))
        return {name: _as_jsonb(inner) for name, inner in by_length}
    if type(value) is list:
        return [_as_jsonb(inner) for inner in value]
    if type(value) is float:
        text = msgspec.json.encode(value).decode()
        return int(Decimal(text)) if "e" in text and value.is_integer() else value + 0.0
    return value


MAX_ERROR_CHARACTERS = 2_000  # the limit of a stored error text


def printable(text: str) -> str:
    """Returns the text with replacements for NUL and lone surrogates, which Postgres cannot store."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


ROWS_OF_A_STATEMENT = 5_000  # few enough that a busy server writes them within the statement time-out


def in_pieces(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yields the rows in pieces of ROWS_OF_A_STATEMENT, in order."""
    for first in range(0, len(rows), ROWS_OF_A_STATEMENT):
        yield rows[first : first + ROWS_OF_A_STATEMENT]


def bare_array(values: Iterable[object]) -> str:
    """Returns an array literal of integers, uuids or words, which need no quotes."""
    return "{" + ",".join(map(str, values)) + "}"


def uuid_array(values: Iterable[UUID]) -> str:
    """Returns an array literal of uuids, several times faster than `bare_array`."""
    return "{" + ",".join([value.int.to_bytes(16, "big").hex() for value in values]) + "}"


def text_array(values: Iterable[str | None]) -> str:
    """Returns an array literal of any texts. None becomes NULL."""
    texts = values if isinstance(values, tuple) else tuple(values)
    try:
        # Quoting all texts with one call is faster. It needs a separator that no text holds.
        joined = "\0".join(texts)  # type: ignore[arg-type]
        if joined.count("\0") == len(texts) - 1:
            return '{"' + _escaped(joined).replace("\0", '","') + '"}'
    except TypeError:  # None
        pass
    return "{" + ",".join([_quoted(value) for value in texts]) + "}"


def array_and_default(texts: tuple[str | None, ...]) -> tuple[str, str | None]:
    """Returns an array literal, and the value of all elements that the array lacks.

    If all texts are equal, the array is empty, because Postgres parses each element. A statement reads the
    column as `coalesce(d.column, $2)`: unnest() completes a shorter array with NULL.
    """
    return ("{}", texts[0]) if texts.count(texts[0]) == len(texts) else (text_array(texts), None)


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    return f'"{_escaped(value)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
