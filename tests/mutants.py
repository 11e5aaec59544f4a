"""Mutants are copies of a module with one change in the source. They show that a test can fail."""

import inspect
from types import ModuleType


def mutated(module: ModuleType, old: str, new: str) -> ModuleType:
    """Returns a copy of a module in which `new` replaces `old`. `old` must occur exactly one time."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {module.__name__}"
    copy = ModuleType(f"{module.__name__}_mutated")
    exec(compile(source.replace(old, new), copy.__name__, "exec"), vars(copy))
    return copy
