"""Generic JSON data to the type a handler declares: exactly that type, or a refusal."""

from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any

import msgspec
import msgspec.inspect

from sluice.tasks.api import JsonObject
from sluice.tasks.events.strict_json import DecodeError


def convert_data(data: object, data_type: Any) -> Any:
    """The data as a handler declares it. Raises DecodeError where it is not exactly that."""
    return _converter(data_type)(data)


def own_data(data: JsonObject, data_type: Any) -> Any:
    """As `convert_data`, of a copy: whatever is done to it, `data` stays as it is. Raises DecodeError."""
    return _copier(data_type)(data)


@cache
def _converter(data_type: Any) -> Callable[[object], Any]:
    takes_every_object = data_type is Any or data_type is dict or data_type == JsonObject
    holds_decimals = msgspec.inspect.DecimalType in _kinds_in(data_type)

    def convert(data: object) -> Any:
        if takes_every_object and type(data) is dict:
            return data
        try:
            # Keys of JSON objects are always text: str_keys lets them be numbers where the type says so.
            converted = msgspec.convert(data, data_type, strict=True, str_keys=True)
        except msgspec.ValidationError as error:
            raise DecodeError(f"invalid data: {error}") from None
        if holds_decimals:
            _refuse_floats("$", data, msgspec.to_builtins(converted, builtin_types=(Decimal,), str_keys=True))
        return converted

    return convert


@cache
def _copier(data_type: Any) -> Callable[[JsonObject], Any]:
    convert = _converter(data_type)
    # A conversion may keep objects or arrays of its input where any are taken. msgspec makes typed ones anew.
    if _kinds_in(data_type) & {msgspec.inspect.AnyType, msgspec.inspect.CustomType}:
        return lambda data: convert(copied_json(data))
    return convert


def copied_json(value: Any) -> Any:
    """Returns a JSON value with objects and arrays of its own."""
    if type(value) is dict:
        return {
            name: copied_json(inner) if type(inner) is dict or type(inner) is list else inner
            for name, inner in value.items()
        }
    return [copied_json(inner) for inner in value] if type(value) is list else value


def _kinds_in(data_type: Any) -> frozenset[type]:
    """The kinds of types that a type is made of, as msgspec tells them apart."""
    waiting: list[Any] = [msgspec.inspect.type_info(data_type)]
    seen: dict[int, Any] = {}
    while waiting:
        part = waiting.pop()
        if isinstance(part, tuple):
            waiting += part
        elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field) and id(part) not in seen:
            seen[id(part)] = part  # kept, so that no other part gets its id
            waiting += [getattr(part, name) for name in part.__struct_fields__]
    return frozenset(map(type, seen.values()))


def _refuse_floats(place: str, data: Any, converted: Any) -> None:
    # msgspec makes a Decimal of a float, which has lost digits by then: 12345678901234567.89 ends in 68.
    if type(converted) is Decimal:
        if type(data) is float:
            raise DecodeError(
                f"invalid data: an exact decimal is a string or an integer, no float - at `{place}`"
            )
        if not converted.is_finite():
            raise DecodeError(f"invalid data: {converted} is no amount - at `{place}`")
    elif type(converted) is dict and type(data) is dict:
        for name, value in converted.items():
            _refuse_floats(f"{place}.{name}", data.get(name), value)
    elif isinstance(converted, list | tuple) and type(data) is list:
        for written, value in zip(data, converted, strict=False):
            _refuse_floats(f"{place}[...]", written, value)
