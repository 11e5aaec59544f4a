"""Saves and resets the variables of handler modules, so that a test can simulate the start of a worker."""

from collections import deque
from collections.abc import Iterable
from copy import copy
from typing import Any

from sluice.tasks.fold.registry import Registry

_CHANGEABLE = (dict, list, set, deque)
_REPLACED = (bool, int, float, str, bytes, tuple, frozenset, type(None))


class HandlerMemory:
    """A copy of the global variables (with plain values) and of the caches of handler modules at
    one moment.
    """

    def __init__(self, registry: Registry) -> None:
        entries = [*registry.handlers.values(), *registry.projections.values()]
        namespaces = {
            id(e.function.__globals__): e.function.__globals__ for of_type in entries for e in of_type
        }
        self._before = [
            (namespace, name, value, copy(value) if isinstance(value, _CHANGEABLE) else value)
            for namespace in namespaces.values()
            for name, value in namespace.items()
            if _is_memory(name, value)
        ]

    def reset(self) -> None:
        """Sets all variables back to these values, and clears the caches."""
        for namespace, name, value, before in self._before:
            if hasattr(value, "cache_clear"):
                value.cache_clear()
            elif isinstance(value, _CHANGEABLE):
                _refill(value, before)
            namespace[name] = value


def _is_memory(name: str, value: Any) -> bool:
    if name.startswith("__"):
        return False
    return type(value) in _REPLACED or isinstance(value, _CHANGEABLE) or hasattr(value, "cache_clear")


def _refill(value: Any, before: Iterable[Any]) -> None:
    value.clear()
    if isinstance(value, dict | set):
        value.update(before)
    else:
        value.extend(before)
