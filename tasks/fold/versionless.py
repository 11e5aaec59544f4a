"""Finds writes without a version in the source code of a handler. Pure."""

import ast
import builtins
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any

from sluice.tasks.api import Delete, Merge, Upsert

if TYPE_CHECKING:
    from sluice.tasks.fold.registry import ProjectionEntry

_VERSION_AT = {Upsert: 3, Merge: 3, Delete: 2}
"""Position of the version among the arguments, if it is not passed by name."""
_UNKNOWN = object()


def topics_of_projections(
    entries: Iterable["ProjectionEntry"], declared: Iterable[str]
) -> dict[str, frozenset[str]]:
    """Returns projection → topics of its handlers: the named topics, or all topics."""
    found: dict[str, frozenset[str]] = {}
    for entry in entries:
        taken = declared if entry.topics is None else entry.topics
        found[entry.into.name] = found.get(entry.into.name, frozenset()).union(taken)
    return found


def versionless_flaw(entries: Iterable["ProjectionEntry"]) -> str | None:
    """Returns the reason to refuse a projection's handlers if one writes without a version, else None."""
    for entry in entries:
        several = entry.sources[entry.into.name]
        if len(several) > 1 and (place := find_versionless(entry.function)) is not None:
            return f"{place}: {entry.name} {versionless_problem(entry.into.name, several)}"
    return None


def versionless_problem(projection: str, topics: Iterable[str]) -> str:
    """Returns the reason why a projection of several topics needs versions, and the solutions."""
    return (
        f"writes projection {projection} with version=None, but its handlers take events of several topics"
        f" ({', '.join(sorted(topics))}), whose order differs from one rebuild to the next; give a version"
        " that comes from the event, or narrow all its handlers to one topic with topic="
    )


def find_versionless(handler: Callable[..., Any]) -> str | None:
    """Returns file and line of a write with `version=None` in a handler or in functions that it names.

    Returns None if every write has a version. Computed versions are checked when the write is yielded.
    """
    seen: set[int] = set()
    left: list[Any] = [inspect.unwrap(handler)]
    while left:
        function = left.pop()
        if id(function) in seen or not isinstance(function, FunctionType):
            continue
        seen.add(id(function))
        names = _names(function)
        for node in _nodes(function):
            if isinstance(node, ast.Call) and _is_versionless(node, names):
                line = function.__code__.co_firstlineno + node.lineno - 1
                return f"{function.__code__.co_filename}:{line}"
            if isinstance(node, ast.Name | ast.Attribute):
                left.append(_value(node, names))
    return None


def _names(function: FunctionType) -> dict[str, Any]:
    inner = inspect.getclosurevars(function).nonlocals
    return {**vars(builtins), **function.__globals__, **inner}


def _nodes(function: FunctionType) -> Iterator[ast.AST]:
    try:
        yield from ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):  # defined without a file, or inside an expression
        return


def _is_versionless(call: ast.Call, names: dict[str, Any]) -> bool:
    place = _VERSION_AT.get(_value(call.func, names))
    if place is None:
        return False
    named = [keyword.value for keyword in call.keywords if keyword.arg == "version"]
    given = named or call.args[place : place + 1]
    return bool(given) and _value(given[0], names) is None


def _value(node: ast.AST, names: dict[str, Any]) -> Any:
    """Returns the value of a constant or of a global name, else _UNKNOWN."""
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(name):
            found = names.get(name, _UNKNOWN)
        case ast.Attribute(inner, name):
            found = getattr(_value(inner, names), name, _UNKNOWN)
        case _:
            return _UNKNOWN
    try:
        hash(found)
    except TypeError:
        return _UNKNOWN
    return found
