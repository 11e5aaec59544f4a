"""Bytes to one JSON object, refusing all that two parsers, or Postgres, could read differently."""

import json
from typing import Any

import msgspec

from sluice.tasks.api import JsonObject

MAX_DEPTH = 64
"""Levels of objects and arrays, the outermost counted: far below any parser's own limit."""

MAX_INTEGER = 2**63 - 1
MIN_INTEGER = -(2**63)
"""What a Postgres bigint holds."""

_LONG_INTEGER = b"0" * len(str(MAX_INTEGER))
_ALL_DIGITS_ZERO = bytes.maketrans(b"123456789", b"0" * 9)

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class DecodeError(Exception):
    """One sentence: why this record is no event. The record's own fault; a repeat fails the same way."""


def parse_object(raw: bytes) -> JsonObject:
    """The object `raw` holds: UTF-8, no repeated key, 64-bit integers, finite numbers, no NUL, depth <= 64.

    Integral floats stay floats (1.0 is not 1), as msgspec reads them. Raises DecodeError for anything else.
    """
    try:
        value = _decode(raw)
        if type(value) is not dict:
            raise DecodeError(f"a JSON object is needed, found {_kind(value)}")
        escaped = b"\\" in raw
        if _is_suspect(raw) or (escaped and b"\\u0000" in raw):
            _check_values(value)
        # No string changes its colons on the way, unless one was escaped.
        if (escaped and b"\\u003" in raw) or _lost_a_key(raw, value):
            check_keys_exactly(raw)
    except RecursionError:
        raise DecodeError(f"nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError:
        raise DecodeError("not UTF-8") from None
    except msgspec.MsgspecError as error:
        raise DecodeError(f"no valid JSON: {error}") from None
    return value


def peek_object(raw: bytes) -> JsonObject:
    """What can be read of an object that `parse_object` refused; empty if nothing. Never raises."""
    try:
        value = _decode(raw)
    except (RecursionError, ValueError):
        return {}
    return value if type(value) is dict else {}


def canonical(value: JsonObject) -> bytes:
    """The same bytes for equal data, whatever the order of keys and the white space it came with."""
    return _encode_sorted(value)


def require_object(name: str, value: object) -> JsonObject:
    """`value`, if it is a JSON object. Raises DecodeError."""
    if type(value) is not dict:
        raise DecodeError(f"{name} must be a JSON object, found {_kind(value)}")
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _is_suspect(raw: bytes) -> bool:
    # Cheap, and wrong on one side only: without these bytes no value can be too deep or too big.
    # Translating beats a regular expression for a run of digits by 7 to 1.
    return raw.count(b"{") + raw.count(b"[") > MAX_DEPTH or _LONG_INTEGER in raw.translate(_ALL_DIGITS_ZERO)


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
                raise DecodeError("holds the character NUL")
            if type(item) is int and not MIN_INTEGER <= item <= MAX_INTEGER:
                raise DecodeError("holds an integer that does not fit 64 bits")
        level = [item for item in inner if type(item) is dict or type(item) is list]
        if not level:
            return
    raise DecodeError(f"nested deeper than {MAX_DEPTH} levels")


def _lost_a_key(raw: bytes, value: JsonObject) -> bool:
    # msgspec keeps the last of repeated keys: written again, the object lacks the colons of the others.
    return raw.count(b":") != _encode(value).count(b":")


def check_keys_exactly(raw: bytes) -> None:
    """Raises DecodeError if valid JSON repeats a key in some object. Ten times slower than counting."""
    json.loads(raw.decode(), parse_int=str, parse_float=str, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise DecodeError(f"repeats the key {key!r:.80}")
        seen.add(key)
