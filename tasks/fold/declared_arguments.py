"""Checks the arguments of Topic, Entity, projects and effect, because Python checks no types. Pure."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any, TypeAlias

from sqlalchemy import Table

from sluice.tasks.api import EffectDeclaration, Entity, FieldNames, Projects, Topic

Rule: TypeAlias = tuple[str, Callable[[Any], bool], str]
"""An argument, a function that returns True for a valid value, and a description of valid values."""


def listed(given: Any, variable: str, place: str, example: str) -> Sequence[Any]:
    """Returns the values of a module's variable `topics` or `outgoing_topics`. Raises ValueError."""
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        return tuple(given)
    shown = "one Topic" if isinstance(given, Topic) else _shown(given)
    raise ValueError(f"{variable} of {place} must be a tuple, not {shown}; write {variable} = ({example},)")


def topic_flaw(topic: Topic) -> str | None:
    """Returns the first wrong argument of a Topic, its Entity or its FieldNames. None if all are valid."""
    flaw = _flaw_of(topic, _TOPIC)
    if flaw is None:
        flaw = _flaw_of(topic.entity, _ENTITY) or _flaw_of(topic.fields, _FIELDS)
    return flaw


def projects_flaw(declared: Projects) -> str | None:
    """Returns the first wrong argument of `projects`, None if all are valid."""
    return _flaw_of(declared, _PROJECTS)


def effect_flaw(declared: EffectDeclaration, function: FunctionType) -> str | None:
    """Returns the first wrong argument of `effect`, or the flaw of its function. None if all are valid."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "it is async; an effect function is a plain function: write `def`, without async and await"
    if inspect.isgeneratorfunction(function):
        return "it contains yield, so a call of the function would do nothing; return the provider's answer"
    return _flaw_of(declared, _EFFECT)


def _flaw_of(declared: object, rules: Sequence[Rule]) -> str | None:
    for name, is_valid, expected in rules:
        value = getattr(declared, name)
        if not is_valid(value):
            return f"{name.removesuffix('_seconds')}= must be {expected}, not {_shown(value)}"
    return None


def _shown(value: object) -> str:
    shown = f"{value!r:.80}"
    name = type(value).__name__
    return shown if value is None or shown.startswith(name) else f"{name} {shown}"


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_texts(value: Any) -> bool:
    # A string is also a collection of strings: with ignores="abc", `"a" in ignores` would be True.
    return isinstance(value, tuple | list | set | frozenset) and all(isinstance(one, str) for one in value)


def _is_one_of(*texts: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in texts


def _optional(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_valid(value)


_TOPIC: Sequence[Rule] = (
    ("entity", _is(Entity), 'an Entity, as in Entity("order")'),
    ("ignores", _is_texts, 'a tuple of event types, as in ("order.read",)'),
    ("start", _is_one_of("earliest", "latest"), '"earliest" or "latest"'),
    ("on_failure", _is_one_of("park", "skip"), '"park" or "skip"'),
    (
        "dedup",
        _is_one_of("id", "position", "natural"),
        '"id" (repeats have the same id), "position" (every record counts) or "natural" (repeats change'
        " nothing, because of their versions)",
    ),
    ("fields", _is(FieldNames), 'a FieldNames, as in FieldNames(event_id="id")'),
    ("tombstone_type", _optional(_is(str)), "a string or None"),
    ("max_bytes", lambda value: _is_whole(value) and value > 0, "a positive number of bytes"),
)
_ENTITY: Sequence[Rule] = (
    ("name", _is(str), "a string"),
    ("shards", _is_whole, "an integer"),
)
_FIELDS: Sequence[Rule] = tuple(
    (name, _is(str), "a string") for name in ("event_id", "type", "version", "occurred_at", "data")
)
_PROJECTS: Sequence[Rule] = (
    ("into", _is(Table), "a table made by projection_table(...)"),
    ("revision", _is_whole, "an integer"),
)
_EFFECT: Sequence[Rule] = (
    ("name", lambda value: isinstance(value, str) and value != "", "a string"),
    ("on_unknown", _is_one_of("retry", "ask"), '"retry" or "ask"'),
    ("timeout_seconds", _is_positive, "a positive number of seconds"),
    ("attempts", lambda value: _is_whole(value) and value > 0, "a positive integer"),
    ("key_lifetime_seconds", _optional(_is_positive), "a positive number of seconds"),
    ("holds", _is(bool), "True or False"),
    ("reconcile", _optional(callable), "a function or None"),
)
