"""Finds writes without a version in the source code of a handler. Pure."""

import ast
import builtins
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from sluice.tasks.api import Delete, Merge, Upsert

if TYPE_CHECKING:
    from sluice.tasks.fold.registry import ProjectionEntry

_VERSION_AT = {Upsert: 3, Merge: 3, Delete: 2}
"""Position of the version among the arguments, if it is not passed by name."""
UNKNOWN = object()
"""The value of an expression that the source does not show."""


class NamedCall(NamedTuple):
    """A call in the source of a handler, or of a function that the handler names."""

    node: ast.Call
    names: Mapping[str, Any]
    place: str
    """File and line."""

    @property
    def made(self) -> Any:
        """Returns what is called; UNKNOWN if the source does not show it."""
        return _value(self.node.func, self.names)


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
    versionless = (call for call in named_calls(handler) if _is_versionless(call))
    found = next(versionless, None)
    return None if found is None else found.place


def named_calls(handler: Callable[..., Any]) -> Iterator[NamedCall]:
    """Yields the calls in the source of a handler, and of the functions that it names."""
    seen: set[int] = set()
    left: list[Any] = [inspect.unwrap(handler)]
    while left:
        function = left.pop()
        if id(function) in seen or not isinstance(function, FunctionType):
            continue
        seen.add(id(function))
        names = _names(function)
        for node in _nodes(function):
            if isinstance(node, ast.Call):
                line = function.__code__.co_firstlineno + node.lineno - 1
                yield NamedCall(node, names, f"{function.__code__.co_filename}:{line}")
            if isinstance(node, ast.Name | ast.Attribute):
                left.append(_value(node, names))


def argument(call: ast.Call, names: Mapping[str, Any], name: str, number: int) -> Any:
    """Returns an argument that is given by name or by number; UNKNOWN if the source does not show it."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == name]
    given = given or call.args[number : number + 1]
    return _value(given[0], names) if given else UNKNOWN


def _names(function: FunctionType) -> dict[str, Any]:
    inner = inspect.getclosurevars(function).nonlocals
    return {**vars(builtins), **function.__globals__, **inner}


def _nodes(function: FunctionType) -> Iterator[ast.AST]:
    try:
        yield from ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):  # defined without a file, or inside an expression
        return


def _is_versionless(call: NamedCall) -> bool:
    place = _VERSION_AT.get(call.made)
    return place is not None and argument(call.node, call.names, "version", place) is None


def _value(node: ast.AST, names: Mapping[str, Any]) -> Any:
    """Returns the value of a constant or of a global name, else UNKNOWN."""
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(name):
            found = names.get(name, UNKNOWN)
        case ast.Attribute(inner, name):
            found = getattr(_value(inner, names), name, UNKNOWN)
        case _:
            return UNKNOWN
    try:
        hash(found)
    except TypeError:
        return UNKNOWN
    return found
