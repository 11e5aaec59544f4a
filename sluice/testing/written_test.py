"""Writes actions on a world as the code of a test. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase
from types import ModuleType
from typing import Any

import msgspec
from sqlalchemy import Table

from sluice.tasks.api import Version
from sluice.testing.incoming import Incoming

_IMPORTS = {
    "datetime.": "import datetime",
    "Decimal(": "from decimal import Decimal",
    "UUID(": "from uuid import UUID",
}


def incoming_code(event: Incoming) -> str:
    """Returns the event as an expression."""
    data = None if event.data is None else msgspec.json.decode(msgspec.json.encode(event.data))
    more = {
        "type": event.type,
        "data": data,
        "version": event.version,
        "id": event.id,
        "time": event.time,
        "headers": dict(event.headers) or None,
    }
    given = {name: value for name, value in more.items() if value is not None}
    return f"Incoming({arguments(event.topic, key=event.key, **given)})"


def given_code(table: Table, key: str, values: Mapping[str, Any], version: Version | None) -> str:
    """Returns the code of a call of `given` that puts this row into a table."""
    more = {} if version is None else {"version": version}
    return f"given({arguments(table.name, key, dict(values), **more)})"


def module_names(modules: Iterable[str | ModuleType]) -> str:
    """Returns the names of modules as arguments."""
    return arguments(*(one if isinstance(one, str) else one.__name__ for one in modules))


def arguments(*values: object, **named: object) -> str:
    """Returns the arguments of a call as code."""
    return ", ".join([*map(repr, values), *(f"{name}={value!r}" for name, value in named.items())])


def order_test(
    script: Sequence[str], events: Sequence[Incoming], one: Sequence[int], other: Sequence[int]
) -> str:
    """Returns a test that fails while two orders of some of the events give different results.

    `script`: code that creates the world and acts on it before the events.
    """
    used = sorted({*one, *other})
    names = dict(zip(used, _names(len(used)), strict=True))
    body = [
        f"world = {script[0]}",
        *(f"world.{step}" for step in script[1:]),
        "other = world.copy()",
        *(f"{names[number]} = {incoming_code(events[number])}" for number in used),
        f"for event in {_tuple([names[n] for n in one])}:",
        "    world.send_event(event)",
        f"for event in {_tuple([names[n] for n in other])}:",
        "    other.send_event(event)",
        "assert world.state == other.state",
    ]
    code = "\n".join(f"    {line}" for line in body)
    imports = [line for sign, line in _IMPORTS.items() if sign in code]
    head = [*imports, "from sluice.testing import Incoming, World"]
    return "\n".join([*head, "", "", "def test_the_order_of_arrival_does_not_matter():", code])


def _names(count: int) -> list[str]:
    if count <= len(ascii_lowercase):
        return list(ascii_lowercase[:count])
    return [f"event_{number}" for number in range(count)]


def _tuple(names: Sequence[str]) -> str:
    return f"({names[0]},)" if len(names) == 1 else f"({', '.join(names)})"
