"""Parses bytes to one JSON object. Refuses JSON that two parsers, or Postgres, could read differently."""

import json
from typing import Any

import msgspec

from sluice.tasks.api import JsonObject

MAX_DEPTH = 64
"""Levels of objects and arrays, including the outermost; far below any parser's own limit."""

MAX_INTEGER = 2**63 - 1
MIN_INTEGER = -(2**63)
"""The range of a Postgres bigint."""

_LONG_INTEGER = b"0" * len(str(MAX_INTEGER))
_DIGITS_AND_OPENINGS = bytes.maketrans(b"123456789[", b"0" * 9 + b"{")

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class DecodeError(Exception):
    """The record is not an event. The text is the reason, in one sentence. A retry would fail again."""


def parse_object(raw: bytes) -> JsonObject:
    """Returns the object in `raw`. Integral floats remain floats (1.0 is not 1), as msgspec reads them.

    Raises DecodeError unless `raw` is a JSON object in UTF-8 without repeated keys or NUL, with finite
    numbers, integers of 64 bits, and at most MAX_DEPTH levels.
    """
    try:
        value = _decode(raw)
        if type(value) is not dict:
            raise DecodeError(f"expected a JSON object, found {_kind(value)}")
        escaped = b"\\" in raw
        if _is_suspect(raw) or (escaped and b"\\u0000" in raw):
            _check_values(value)
        # msgspec keeps only the last of repeated keys, so the object as written by msgspec is shorter.
        written = _encode(value)
        if written != raw and _may_have_lost_a_key(raw, written, escaped):
            check_keys_exactly(raw)
    except RecursionError:
        raise DecodeError(f"nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError:
        raise DecodeError("not UTF-8") from None
    except msgspec.MsgspecError as error:
        raise DecodeError(f"not valid JSON: {error}") from None
    return value


def peek_object(raw: bytes) -> JsonObject:
    """Returns the object that `parse_object` refused, or {} if it is not readable. Never raises."""
    try:
        value = _decode(raw)
    except (RecursionError, ValueError):
        return {}
    return value if type(value) is dict else {}


def canonical(value: JsonObject) -> bytes:
    """Returns the same bytes for equal data, for any order of keys and any white space."""
    return _encode_sorted(value)


def require_object(name: str, value: object) -> JsonObject:
    """Returns `value` if it is a JSON object. Raises DecodeError otherwise."""
    if type(value) is not dict:
        raise DecodeError(f"{name} must be a JSON object, found {_kind(value)}")
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _is_suspect(raw: bytes) -> bool:
    # A cheap check that never misses a value that is too deep or too big. For a run of digits, `translate` is
    # seven times faster than a regular expression.
    alike = raw.translate(_DIGITS_AND_OPENINGS)
    return alike.count(b"{") > MAX_DEPTH or alike.find(_LONG_INTEGER) >= 0


def _check_values(value: JsonObject) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for container in level:
            if type(container) is dict:
                inner.extend(container)
                inner.extend(container.values())
            else:
                inner.extend(container)
        for item in inner:
            if type(item) is str and "\0" in item:
                raise DecodeError("contains the character NUL")
            if type(item) is int and not MIN_INTEGER <= item <= MAX_INTEGER:
                raise DecodeError("contains an integer that does not fit 64 bits")
        level = [item for item in inner if type(item) is dict or type(item) is list]
        if not level:
            return
    raise DecodeError(f"nested deeper than {MAX_DEPTH} levels")


def _may_have_lost_a_key(raw: bytes, written: bytes, escaped: bool) -> bool:
    # Unless a colon is escaped, parsing and writing do not change the number of colons in a string.
    return (escaped and b"\\u003" in raw) or raw.count(b":") != written.count(b":")


def check_keys_exactly(raw: bytes) -> None:
    """Raises DecodeError if valid JSON repeats a key in an object. Ten times slower than counting colons."""
    json.loads(raw.decode(), parse_int=str, parse_float=str, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise DecodeError(f"repeats the key {key!r:.80}")
        seen.add(key)
