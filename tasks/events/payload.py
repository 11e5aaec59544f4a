"""Generic JSON data to the type a handler declares: exactly that type, or a refusal."""

from decimal import Decimal
from functools import cache
from typing import Any

import msgspec
import msgspec.inspect

from sluice.tasks.api import JsonObject
from sluice.tasks.events.strict_json import DecodeError


def convert_data(data: object, data_type: Any) -> Any:
    """The data as a handler declares it. Raises DecodeError where it is not exactly that."""
    if type(data) is dict and (data_type is Any or data_type is dict or data_type == JsonObject):
        return data
    try:
        # Keys of JSON objects are always text: str_keys lets them be numbers where the type says so.
        converted = msgspec.convert(data, data_type, strict=True, str_keys=True)
    except msgspec.ValidationError as error:
        raise DecodeError(f"invalid data: {error}") from None
    if _holds_decimals(data_type):
        _refuse_floats("$", data, msgspec.to_builtins(converted, builtin_types=(Decimal,), str_keys=True))
    return converted


def own_data(data: JsonObject, data_type: Any) -> Any:
    """As `convert_data`, of a copy: whatever is done to it, `data` stays as it is. Raises DecodeError."""
    return convert_data(copied_json(data) if _takes_as_it_is(data_type) else data, data_type)


def copied_json(value: Any) -> Any:
    """Returns a JSON value with objects and arrays of its own."""
    if type(value) is dict:
        return {
            name: copied_json(inner) if type(inner) is dict or type(inner) is list else inner
            for name, inner in value.items()
        }
    return [copied_json(inner) for inner in value] if type(value) is list else value


@cache
def _takes_as_it_is(data_type: Any) -> bool:
    """Whether a conversion may keep objects or arrays of its input. msgspec makes typed ones anew."""
    return bool(_kinds_in(data_type) & {msgspec.inspect.AnyType, msgspec.inspect.CustomType})


@cache
def _holds_decimals(data_type: Any) -> bool:
    return msgspec.inspect.DecimalType in _kinds_in(data_type)


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
