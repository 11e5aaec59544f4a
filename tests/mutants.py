"""Mutants are copies of a module with one change in the source. They show that a test can fail."""

import inspect
from dataclasses import replace
from types import ModuleType

import pytest


def mutated(module: ModuleType, old: str, new: str) -> ModuleType:
    """Returns a copy of a module in which `new` replaces `old`. `old` must occur exactly one time."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {module.__name__}"
    copy = ModuleType(f"{module.__name__}_mutated")
    exec(compile(source.replace(old, new), copy.__name__, "exec"), vars(copy))
    return copy


def mutate_statement(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, statement: str, old: str, new: str
) -> None:
    """Replaces each `old` in the text of a module's prepared statement, which must contain it."""
    written = getattr(module, statement)
    assert old in written.text, f"{statement} does not contain {old!r}"
    monkeypatch.setattr(module, statement, replace(written, text=written.text.replace(old, new)))
