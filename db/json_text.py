"""Encodes values as JSON, for columns, outgoing events and arguments of calls."""

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class NotJson(ValueError):
    """A value that JSON cannot represent exactly."""


def encoded_json(value: Any, *, is_sorted: bool = False) -> bytes:
    """Returns the value as JSON, with Enum members as their values. Raises NotJson for other types."""
    encode = _encode_sorted if is_sorted else _encode
    try:
        if type(value) is not dict and isinstance(value, msgspec.Raw):
            msgspec.json.decode(value)
        try:
            encoded = encode(value)
        except TypeError:
            # msgspec raises TypeError if a key of a mapping is an Enum member.
            value = _without_members(value)
            encoded = encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise NotJson(f"{type(value).__name__} {value!r:.80} is not a JSON value: {error}") from None
    if b"null" in encoded and not _is_finite(value):
        raise NotJson(f"{type(value).__name__} {value!r:.80} is not a JSON value: it holds NaN or infinity")
    return encoded


def holds_nul(value: Any) -> bool:
    """Returns True if a text in a JSON value holds NUL, which Postgres cannot store."""
    if type(value) is dict:
        return any("\0" in name or holds_nul(inner) for name, inner in value.items())
    if type(value) is list:
        return any(map(holds_nul, value))
    return type(value) is str and "\0" in value


def _is_finite(value: Any) -> bool:
    # JSON has no NaN and no infinity: msgspec writes null for them.
    try:
        return _holds_finite(msgspec.to_builtins(value))
    except TypeError:
        return True  # the value holds msgspec.Raw, which is already JSON


def _holds_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_holds_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_holds_finite, value))


def _without_members(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {_without_members(key): _without_members(inner) for key, inner in value.items()}
    return [_without_members(inner) for inner in value] if isinstance(value, list | tuple) else value
