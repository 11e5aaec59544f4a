"""Finds the `sluice …` commands that messages name: string literals of the code, without docstrings."""

import ast
import re
from collections.abc import Iterator

from tests.documents import ROOT

FOLDERS = ("sluice", "bridge", "tasks", "worker", "db")
VALUE = "1"  # stands for a value that the code fills in: a text, a number or a name
_IN_BACKTICKS = re.compile(r"`(sluice [a-z][^`]*)`")
_AFTER_A_COLON = re.compile(r": (sluice [a-z][^`]*)$")


def message_commands() -> Iterator[tuple[str, str]]:
    """Yields the place of each command, as `file:line`, and the command."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if "template" not in file.parts:
                for line, command in commands_in_code(file.read_text()):
                    yield f"{file.relative_to(ROOT)}:{line}", command


def commands_in_code(code: str) -> Iterator[tuple[int, str]]:
    """Yields the line of each text that names a command, and the command."""
    tree = ast.parse(code)
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            statement.value = ast.Constant(None)  # a docstring
    for line, text in _texts(tree):
        for pattern in (_IN_BACKTICKS, _AFTER_A_COLON):
            for command in pattern.findall(text):
                yield line, command


def _texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    text = _text(node)
    if text is not None:
        assert isinstance(node, ast.expr)
        yield node.lineno, text
        return
    for inner in ast.iter_child_nodes(node):
        yield from _texts(inner)


def _text(node: ast.AST) -> str | None:
    """Returns the text of an expression of literals, with VALUE for each inserted value."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) or VALUE for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            texts = _text(left), _text(right)
            return None if texts == (None, None) else "".join(VALUE if one is None else one for one in texts)
    return None
