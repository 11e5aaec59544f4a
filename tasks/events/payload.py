"""Converts generic JSON data to exactly the type that a handler declares, or refuses the data."""

from collections.abc import Callable, Collection
from decimal import Decimal
from functools import cache
from typing import Any

import msgspec
import msgspec.inspect

from sluice.tasks.api import JsonObject
from sluice.tasks.events.strict_json import DecodeError


def convert_data(data: object, data_type: Any) -> Any:
    """Returns the data as the declared type. Raises DecodeError if it does not match exactly."""
    return _converter(data_type)(data)


def own_data(data: JsonObject, data_type: Any) -> Any:
    """Converts a copy as `convert_data` does, so that `data` never changes. Raises DecodeError."""
    return _copier(data_type)(data)


def payload_type_flaw(data_type: Any) -> str | None:
    """Returns the reason why no event can have data of this type, None if events can. Pure."""
    try:
        info = msgspec.inspect.type_info(data_type)
    except (TypeError, NameError) as error:
        return str(error)
    if not _takes_objects(info):
        return "the data of an event is a JSON object"
    for part in _parts_of(info):
        if isinstance(part, msgspec.inspect.CustomType) and not _is_any_of(_JSON_CLASSES, part.cls):
            return f"JSON has no values of type {type_name(part.cls)}"
    return None


def is_any_object(data_type: Any) -> bool:
    """Returns True if a handler with this data type gets its data as a dict of any JSON values."""
    return bool(data_type is Any or data_type is dict or data_type == JsonObject)


def type_name(data_type: Any) -> str:
    """Returns the name of a type as its author wrote it."""
    return data_type.__qualname__ if isinstance(data_type, type) else str(data_type)


_JSON_CLASSES = (dict, list, str, int, float, bool, type(None))


def _takes_objects(info: msgspec.inspect.Type) -> bool:
    match info:
        case msgspec.inspect.UnionType(types=types):
            return any(map(_takes_objects, types))
        case msgspec.inspect.StructType(array_like=array_like):
            return not array_like
        case msgspec.inspect.CustomType(cls=cls):
            return _is_any_of((dict,), cls)
    return isinstance(
        info,
        msgspec.inspect.AnyType
        | msgspec.inspect.DataclassType
        | msgspec.inspect.TypedDictType
        | msgspec.inspect.DictType,
    )


def _is_any_of(classes: tuple[type, ...], wanted: type) -> bool:
    try:
        return any(issubclass(one, wanted) for one in classes)
    except TypeError:  # a protocol that does not support issubclass
        return True


@cache
def _converter(data_type: Any) -> Callable[[object], Any]:
    takes_every_object = is_any_object(data_type)
    kinds = _kinds_in(data_type)
    holds_decimals = msgspec.inspect.DecimalType in kinds
    # Keys of JSON objects are always text; `str_keys` converts them to numbers where the type requires it. It
    # takes longer than the conversion of a small object.
    options: dict[str, Any] = {"str_keys": True} if msgspec.inspect.DictType in kinds else {}

    def convert(data: object) -> Any:
        if takes_every_object and type(data) is dict:
            return data
        try:
            converted = msgspec.convert(data, data_type, **options)
        except msgspec.ValidationError as error:
            raise DecodeError(f"invalid data for {type_name(data_type)}: {error}") from None
        if holds_decimals:
            _refuse_floats("$", data, msgspec.to_builtins(converted, builtin_types=(Decimal,), str_keys=True))
        return converted

    return convert


@cache
def _copier(data_type: Any) -> Callable[[JsonObject], Any]:
    convert = _converter(data_type)
    # A conversion may reuse untyped objects and arrays of its input. msgspec copies typed values.
    if _kinds_in(data_type) & {msgspec.inspect.AnyType, msgspec.inspect.CustomType}:
        return lambda data: convert(copied_json(data))
    return convert


def copied_json(value: Any) -> Any:
    """Returns a copy of a JSON value, with new objects and arrays."""
    if type(value) is dict:
        return {
            name: copied_json(inner) if type(inner) is dict or type(inner) is list else inner
            for name, inner in value.items()
        }
    return [copied_json(inner) for inner in value] if type(value) is list else value


def _kinds_in(data_type: Any) -> frozenset[type]:
    """Returns the kinds of types that a type consists of, as msgspec classifies them."""
    return frozenset(map(type, _parts_of(msgspec.inspect.type_info(data_type))))


def _parts_of(info: msgspec.inspect.Type) -> Collection[Any]:
    """Returns the types and fields that a type consists of, itself included."""
    waiting: list[Any] = [info]
    seen: dict[int, Any] = {}
    while waiting:
        part = waiting.pop()
        if isinstance(part, tuple):
            waiting += part
        elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field) and id(part) not in seen:
            seen[id(part)] = part  # keeps the part alive, so that no other part gets the same id()
            waiting += [getattr(part, name) for name in part.__struct_fields__]
    return seen.values()


def _refuse_floats(place: str, data: Any, converted: Any) -> None:
    # msgspec makes a Decimal from a float, which loses digits: 12345678901234567.89 becomes …68.
    if type(converted) is Decimal:
        if type(data) is float:
            raise DecodeError(
                f"invalid data: an exact decimal must be a string or an integer, not a float - at `{place}`"
            )
        if not converted.is_finite():
            raise DecodeError(f"invalid data: {converted} is not a finite number - at `{place}`")
    elif type(converted) is dict and type(data) is dict:
        for name, value in converted.items():
            _refuse_floats(f"{place}.{name}", data.get(name), value)
    elif isinstance(converted, list | tuple) and type(data) is list:
        for written, value in zip(data, converted, strict=False):
            _refuse_floats(f"{place}[...]", written, value)
