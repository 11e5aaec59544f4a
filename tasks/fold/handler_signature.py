"""Reads the event types, topics and data type that a decorated function declares."""

import inspect
from enum import Enum
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from sluice.tasks.api import Event, Text, Topic, TopicChoice
from sluice.tasks.events.payload import payload_type_flaw, type_name


class HandlersRefused(ValueError):
    """The handlers cannot be used. The message names the place to change."""


def topic_names(topic: TopicChoice) -> tuple[Any, ...] | None:
    """Returns the topics that a handler is limited to, None for every topic. Does not check them."""
    if topic is None:
        return None
    several = topic if isinstance(topic, tuple | list | set | frozenset) else (topic,)
    return tuple([one.name if isinstance(one, Topic) else _value(one) for one in several])


def _value(one: Any) -> Any:
    return one.value if isinstance(one, Enum) else one


def event_types(written: tuple[Text, ...], name: str) -> tuple[str, ...]:
    """Returns the event types that a handler is declared for. Raises HandlersRefused."""
    types = tuple([_value(one) for one in written])
    for kind in types:
        if not isinstance(kind, str):
            raise HandlersRefused(
                f"{name}: {kind!r:.80} is not an event type; name the types as texts, as in"
                ' ("order.placed", "order.paid")'
            )
    if not types or len(set(types)) != len(types):
        raise HandlersRefused(f"{name}: name at least one event type, and none of them twice")
    return types


def data_type_of(function: Any, name: str) -> Any:
    """Returns X of the handler's parameter `Event[X]`; Any without `[X]`. Raises HandlersRefused."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise HandlersRefused(
            f"handler {name} is async; a handler is a plain generator: write `def`, without async and await"
        )
    if not inspect.isgeneratorfunction(function):
        raise HandlersRefused(
            f"handler {name} contains no yield; yield each effect, as in"
            " `yield Upsert(orders, event.key, {...})`, instead of calling or returning it"
        )
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) != 1:
        raise HandlersRefused(f"{name} takes {len(parameters)} parameters; a handler takes one event")
    try:
        hint = get_type_hints(function).get(parameters[0], Any)
    except NameError as error:
        raise HandlersRefused(f"{name}: its annotation cannot be read: {error}") from error
    if get_origin(hint) is not Event:
        if _is_no_event(hint):
            raise HandlersRefused(
                f"{name}: its parameter {parameters[0]} is annotated as {type_name(hint)}; a handler takes"
                f" the whole event: write `{parameters[0]}: Event[{type_name(hint)}]`"
            )
        return Any
    (data_type,) = get_args(hint)
    if isinstance(data_type, TypeVar):
        return Any
    flaw = payload_type_flaw(data_type)
    if flaw is not None:
        raise HandlersRefused(
            f"{name}: Event[{type_name(data_type)}] can hold no data: {flaw}; declare the data as a"
            " msgspec.Struct, a dataclass or a TypedDict, or accept any object: Event[JsonObject]"
        )
    return data_type


def _is_no_event(hint: Any) -> bool:
    try:
        return hint is not Any and isinstance(hint, type) and not issubclass(Event, hint)
    except TypeError:  # a protocol that does not support issubclass
        return False
