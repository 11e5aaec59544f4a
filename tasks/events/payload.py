"""Generic JSON data to the type a handler declares: exactly that type, or a refusal."""

from decimal import Decimal
from functools import cache
from typing import Any

import msgspec

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


@cache
def _holds_decimals(data_type: Any) -> bool:
    schema = msgspec.json.schema(data_type, schema_hook=lambda _: {})
    return b'"format":"decimal"' in msgspec.json.encode(schema)


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
