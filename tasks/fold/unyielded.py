"""Finds, in the source of a handler, effects that it makes and does not yield. Such effects would be lost."""

import ast
import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any, get_args
from weakref import WeakSet

from sluice.tasks.api import Effect
from sluice.tasks.fold.handler_signature import HandlersRefused
from sluice.tasks.fold.shown_path import shown_path

_accepted: WeakSet[FunctionType] = WeakSet()
"""Handlers that were read before. Each test may collect the same handlers again."""
_EFFECTS: tuple[type, ...] = get_args(Effect)


def refuse_unyielded(handler: FunctionType) -> None:
    """Raises HandlersRefused, with file and line, for an effect that is a separate statement or is returned.

    Also reads the functions that the handler runs with `yield from`. A function without a source is not read.
    """
    if handler in _accepted:
        return
    seen: set[FunctionType] = set()
    unread = [handler]
    while unread:
        function = unread.pop()
        if function in seen:
            continue
        seen.add(function)
        parsed = _parsed(function)
        if parsed is None:
            continue
        tree, first_line = parsed
        unread += [helper for node in ast.walk(tree) if (helper := _helper(function, node)) is not None]
        for call, verb in _lost_calls(tree, returns=function is handler):
            if _is_effect(_value_of(function, call.func)):
                place = f"{shown_path(function.__code__.co_filename)}:{first_line + call.lineno - 1}"
                name = ast.unparse(call.func)
                raise HandlersRefused(
                    f"{place}: {name}(...) is {verb} and not yielded, so it would be lost; write `yield"
                    f" {name}(...)`"
                )
    _accepted.add(handler)


def _parsed(function: FunctionType) -> tuple[ast.FunctionDef, int] | None:
    """Returns the definition of a function, and the first line of its source. None if it has no source."""
    try:
        lines, first_line = inspect.getsourcelines(function)
        if lines[0][:1].isspace():  # dedenting would change texts that span several lines
            lines, first_line = ["if True:\n", *lines], first_line - 1
        [node] = ast.parse("".join(lines)).body
        node = node.body[0] if isinstance(node, ast.If) else node
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    # The file may have changed after the import.
    is_same = isinstance(node, ast.FunctionDef) and node.name == function.__code__.co_name
    return (node, first_line) if isinstance(node, ast.FunctionDef) and is_same else None


def _lost_calls(tree: ast.FunctionDef, *, returns: bool) -> Iterator[tuple[ast.Call, str]]:
    """Yields the calls whose result is dropped. A nested function, or a helper, may return an effect."""
    unread: list[tuple[ast.AST, bool]] = [(statement, returns) for statement in tree.body]
    while unread:
        node, is_outer = unread.pop(0)
        match node:
            case ast.Expr(value=ast.Call() as call):
                yield call, "made"
            case ast.Return(value=ast.Call() as call) if is_outer:
                yield call, "returned"
            case _:
                pass
        is_outer = is_outer and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        unread += [(child, is_outer) for child in ast.iter_child_nodes(node)]


def _helper(function: FunctionType, node: ast.AST) -> FunctionType | None:
    if not isinstance(node, ast.YieldFrom) or not isinstance(node.value, ast.Call):
        return None
    helper = _value_of(function, node.value.func)
    return helper if isinstance(helper, FunctionType) else None


def _value_of(function: FunctionType, name: ast.expr) -> Any:
    """Returns the value of the global variable or module attribute that an expression names."""
    code = function.__code__
    match name:
        case ast.Name(id=written) if written in code.co_freevars:
            return _content(function, code.co_freevars.index(written))
        case ast.Name(id=written) if written not in (*code.co_varnames, *code.co_cellvars):
            return function.__globals__.get(written)
        case ast.Attribute(value=of, attr=attribute):
            module = _value_of(function, of)
            return getattr(module, attribute, None) if inspect.ismodule(module) else None
        case _:
            return None


def _content(function: FunctionType, number: int) -> Any:
    try:
        return (function.__closure__ or ())[number].cell_contents
    except ValueError:  # the variable has no value yet
        return None


def _is_effect(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, _EFFECTS)
