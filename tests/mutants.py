"""Mutants: a module with one place of its source changed, to show that a test can fail."""

import inspect
from types import ModuleType


def mutated(module: ModuleType, old: str, new: str) -> ModuleType:
    """A copy of a module in which `old`, there exactly once, is `new`. The module itself stays as it is."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in {module.__name__}"
    copy = ModuleType(f"{module.__name__}_mutated")
    exec(compile(source.replace(old, new), copy.__name__, "exec"), vars(copy))
    return copy
