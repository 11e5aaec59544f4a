"""Tests of handlers: a world in memory, and checks that any order and any crash give the same result."""

from importlib import import_module
from typing import TYPE_CHECKING

from sluice.testing.any_world import DeadLetter, State
from sluice.testing.calls import CallResult
from sluice.testing.incoming import Incoming
from sluice.testing.order_free import assert_order_free
from sluice.testing.world import World

if TYPE_CHECKING:
    from sluice.testing.servers.crash_safe import CrashReport, assert_crash_safe
    from sluice.testing.servers.postgres_world import PostgresWorld
    from sluice.testing.servers.servers import Servers

__all__ = [
    "CallResult",
    "CrashReport",
    "DeadLetter",
    "Incoming",
    "PostgresWorld",
    "Servers",
    "State",
    "World",
    "assert_crash_safe",
    "assert_order_free",
]

_OF_SERVERS = {
    "CrashReport": "crash_safe",
    "PostgresWorld": "postgres_world",
    "Servers": "servers",
    "assert_crash_safe": "crash_safe",
}


def __getattr__(name: str) -> object:
    """Loads the modules for real servers at first use, because a world in memory needs no client library."""
    if name not in _OF_SERVERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"sluice.testing.servers.{_OF_SERVERS[name]}"), name)
    globals()[name] = value
    return value
