"""Finds the tables that handlers can use: tables of their modules and of modules used there."""

import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from sqlalchemy import MetaData, Table

from sluice.db.made_tables import find_made, tables_made_by
from sluice.db.table_names import require_usable_names
from sluice.db.tables import TableRefused, has_shape

_LIBRARIES = sys.stdlib_module_names | {"msgspec", "sluice", "sqlalchemy"}
_DEPTH = 3  # levels of nested containers


def find_tables(modules: Iterable[ModuleType]) -> list[Table]:
    """Returns the users' tables of these modules, including those inside containers.

    A process, such as a test run, may hold tables of several unrelated applications. So a table counts only
    if its module is in `modules`, is imported or used by one of them, or was imported while one of them was
    imported.
    """
    namespaces: dict[int, dict[str, Any]] = {}
    visible: set[Table] = set()
    left = [vars(module) for module in modules]
    while left:
        namespace = left.pop()
        if id(namespace) in namespaces or _is_library(namespace):
            continue
        namespaces[id(namespace)] = namespace
        for name, value in list(namespace.items()):
            if name.startswith("__"):
                continue
            for thing in _contents(value, _DEPTH):
                if isinstance(thing, MetaData):
                    visible.update(thing.tables.values())
                elif isinstance(thing, Table):
                    visible.add(thing)
                elif (used := _namespace_of(thing)) is not None:
                    left.append(used)
    visible.update([table for seen in list(visible) for table in seen.metadata.tables.values()])
    makers = {made.namespace for table in visible if (made := find_made(table)) is not None}
    return tables_made_by(namespaces.keys() | makers, visible)


def tables_by_name(metadatas: Iterable[MetaData]) -> dict[str, Table]:
    """Returns name → table of the users' tables. Raises TableRefused for a duplicate or reserved name."""
    every = [table for metadata in metadatas for table in metadata.tables.values()]
    found: dict[str, Table] = {}
    for table in filter(has_shape, every):
        if (other := found.setdefault(table.name, table)) is not table:
            places = " and ".join(made.place for made in map(find_made, (other, table)) if made is not None)
            raise TableRefused(f"two tables are called {table.name} (made in {places}): use one of them")
    plain = {table.name: table for table in every if table.schema in (None, "public")}
    require_usable_names((plain | found).values())
    return found


def _is_library(namespace: dict[str, Any]) -> bool:
    return str(namespace.get("__name__", "")).partition(".")[0] in _LIBRARIES


def _contents(value: Any, depth: int) -> Iterator[Any]:
    """Yields the value, or the contents of a container."""
    if depth and isinstance(value, dict):
        value = list(value.values())
    if depth and isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _contents(inner, depth - 1)
    else:
        yield value


def _namespace_of(thing: Any) -> dict[str, Any] | None:
    """Returns the namespace of the module that defines a function, a class or an object's class."""
    if isinstance(thing, ModuleType):
        return vars(thing)
    try:
        if isinstance(found := getattr(thing, "__globals__", None), dict):
            return found
        module = sys.modules.get(getattr(thing, "__module__", ""))
    except Exception:  # an object may be a proxy whose target is missing
        return None
    return None if module is None else vars(module)
