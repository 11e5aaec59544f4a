"""Runs a user's handler: the one place that does. Pure."""

import os
from collections.abc import Generator
from types import GeneratorType
from typing import Any

import msgspec

from sluice.runtime.worker_stop import is_worker_stop
from sluice.tasks.api import Effect, EffectRefused, Event
from sluice.tasks.events.payload import own_data
from sluice.tasks.fold.checked_effects import checked_effect
from sluice.tasks.fold.registry import AnyEntry


def own_event(entry: AnyEntry, event: Event[Any]) -> Event[Any]:
    """Returns the event for one run of a handler: its data, of the declared type, is seen by this run alone.

    Raises DecodeError if the data is not of that type.
    """
    return msgspec.structs.replace(event, data=own_data(event.data, entry.data_type))


def iter_effects(entry: AnyEntry, event: Event[Any]) -> Generator[Effect, Any, None]:
    """Yields the effects of one run of a handler, checked and copied, and sends it the answers to its Reads.

    Raises what the handler raises, EffectRefused for what it yields. To close it closes the handler, which
    may raise.
    """
    steps: Any = entry.function(event)
    answer = None
    while True:
        try:
            effect = steps.send(answer)
        except StopIteration:
            return
        try:
            checked = checked_effect(entry, event, effect)
        except EffectRefused as refused:
            error = EffectRefused(f"{_place(steps)}: {refused}")
            end_quietly(steps)
            raise error from None
        try:
            answer = yield checked
        except GeneratorExit:
            steps.close()
            raise


def end_quietly(steps: Generator[Any, Any, Any]) -> None:
    """Closes a run that does not count; what it raises then does not count either."""
    try:
        steps.close()
    except BaseException as error:
        if is_worker_stop(error):
            raise


def _place(steps: Any) -> str:
    """File and line of the `yield` at which a handler is, also within `yield from`."""
    while isinstance(steps.gi_yieldfrom, GeneratorType):
        steps = steps.gi_yieldfrom
    path = steps.gi_code.co_filename
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # the current directory is gone, or on another drive
        relative = os.pardir
    return f"{path if relative.startswith(os.pardir) else relative}:{steps.gi_frame.f_lineno}"
