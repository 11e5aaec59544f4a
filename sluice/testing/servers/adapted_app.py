"""A user's handlers on real servers, with separate topics for one run. Their effects only record
their calls.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

from sluice.tasks.api import MARK, EffectCall, EffectDeclaration, Handles, JsonObject, Projects, Topic
from sluice.tasks.fold.handler_signature import topic_names

MODULE_CODE = """\
from sluice.testing.servers.adapted_app import adapted

globals().update(adapted({modules!r}, suffix={suffix!r}, journal={journal!r}))
"""


def adapted(modules: Iterable[str], *, suffix: str, journal: str) -> dict[str, Any]:
    """Returns the names of a module with the handlers of these modules.

    Its topics end with the suffix and are read from their beginning. Its effects append the key of each call
    to the file `journal` and do nothing else. The modules themselves are not changed.
    """
    names: dict[str, Any] = {"topics": [], "outgoing_topics": set()}
    for number, module in enumerate(map(import_module, modules)):
        names["topics"] += [_renamed(topic, suffix) for topic in getattr(module, "topics", ())]
        names["outgoing_topics"] |= set(getattr(module, "outgoing_topics", ()))
        for name, thing in vars(module).items():
            if isinstance(thing, FunctionType) and hasattr(thing, MARK):
                names[f"{name}_{number}"] = _adapted_function(thing, suffix, journal)
    return names


def read_journal(journal: Path) -> list[str]:
    """Returns the keys of the calls that were made, in their order."""
    return journal.read_text().splitlines() if journal.exists() else []


def _renamed(topic: Topic, suffix: str) -> Topic:
    return replace(topic, name=topic.name + suffix, start="earliest")


def _adapted_function(function: FunctionType, suffix: str, journal: str) -> Callable[..., Any]:
    declarations = getattr(function, MARK)
    effects = [one for one in declarations if isinstance(one, EffectDeclaration)]
    if effects:
        made = _noting(journal)
        setattr(made, MARK, tuple(replace(one, reconcile=None) for one in effects))
        return made
    copied = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    # Also copies names and annotations: the ids of outgoing events are computed from the name.
    copied.__dict__.update(function.__dict__)
    copied.__module__, copied.__qualname__ = function.__module__, function.__qualname__
    copied.__annotations__ = function.__annotations__
    setattr(copied, MARK, tuple(_narrowed(one, suffix) for one in declarations))
    return copied


def _narrowed(declaration: Handles | Projects, suffix: str) -> Handles | Projects:
    narrowed = topic_names(declaration.topic)
    if narrowed is None:
        return declaration
    return replace(declaration, topic=tuple([f"{name}{suffix}" for name in narrowed]))


def _noting(journal: str) -> Callable[[EffectCall], JsonObject]:
    def note_call(call: EffectCall) -> JsonObject:
        # A line is one write, so it is not interleaved with the writes of other processes.
        file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, f"{call.key}\n".encode())
        finally:
            os.close(file)
        return {}

    return note_call


def app_code(modules: Iterable[str], suffix: str, journal: Path) -> str:
    """Returns the code of a module that `adapted` fills."""
    return MODULE_CODE.format(modules=list(modules), suffix=suffix, journal=str(journal))
