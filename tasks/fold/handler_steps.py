"""Runs a user's handler. No other module runs handlers. Pure."""

from collections.abc import Generator, Iterable
from itertools import repeat
from typing import Any

import msgspec

from sluice.runtime.handler_mark import RUNNING
from sluice.runtime.handler_watch import HandlerWatch, current_watch, limits
from sluice.runtime.worker_stop import is_worker_stop
from sluice.tasks.api import Effect, EffectRefused, Event, Read
from sluice.tasks.events.decode import Decoded
from sluice.tasks.events.payload import own_data
from sluice.tasks.fold.checked_effects import checked_effect
from sluice.tasks.fold.handler_faults import yield_frames
from sluice.tasks.fold.natural import natural_problem
from sluice.tasks.fold.registry import AnyEntry
from sluice.tasks.fold.shown_path import shown_path

ENDLESS_NONE = repeat(None)


def own_event(entry: AnyEntry, event: Event[Any]) -> Event[Any]:
    """Returns the event for one run of a handler, with its own copy of the data in the declared type.

    Raises DecodeError if the data is not of that type.
    """
    return msgspec.structs.replace(event, data=own_data(event.data, entry.data_type))


def begin_run(decoded: Decoded) -> HandlerWatch:
    """Begins a run of all handlers of an event and starts its limits. Call `end` afterwards."""
    watch = current_watch()
    watch.begin(decoded.topic, decoded.topic_id, decoded.partition, decoded.record.offset)
    return watch


def iter_effects(entry: AnyEntry, event: Event[Any]) -> Generator[Effect, Any, None]:
    """Yields the checked and copied effects of one run of a handler. Sends the handler the rows of its Reads.

    The data of `event` is JSON; the run gets its own copy. Raises DecodeError if the data does not fit the
    declared type, EffectRefused for a wrong effect, HandlerTimedOut, TooManyEffects, and the handler's own
    errors. Closing the generator closes the handler, which may raise.
    """
    run = HandlerSteps(entry, event, current_watch())
    answer = None
    try:
        while (effect := run.advance(answer)) is not None:
            answer = yield effect
    except GeneratorExit:
        run.close()
        raise
    except BaseException:
        end_quietly(run)
        raise


class HandlerSteps:
    """One run of a handler, within the limits of its event.

    `cells[RUNNING]` marks that the handler's code runs. Between the mark and `try`, and after `finally`, only
    assignments are allowed.
    """

    __slots__ = ("_entry", "_event", "_is_natural", "_steps", "_watch")

    def __init__(
        self, entry: AnyEntry, event: Event[Any], watch: HandlerWatch, *, is_natural: bool = False
    ) -> None:
        """`is_natural`: the event is of a topic with dedup="natural", which refuses most effects."""
        self._is_natural = is_natural
        self._entry = entry
        self._event = event
        self._steps: Any = None
        self._watch = watch
        watch.handler = entry.name

    def advance(self, answer: object) -> Effect | None:
        """Returns the next effect, checked, or None at the end. See `iter_effects`."""
        effects: list[Effect] = []
        self.collect(effects, [answer])
        return effects[0] if effects else None

    def collect(self, effects: list[Effect], answers: Iterable[object] = ENDLESS_NONE) -> None:
        """Adds the next effects, checked: one for each answer, up to a Read. See `iter_effects`."""
        watch, entry = self._watch, self._entry
        cells = watch.cells
        refused: EffectRefused | None = None
        cells[RUNNING] = watch.number
        try:
            if self._steps is None:
                self._event = own_event(entry, self._event)
                self._steps = entry.function(self._event)
            event, is_natural, most = self._event, self._is_natural, limits.effects
            for effect in map(self._steps.send, answers):
                watch.effects += 1
                if watch.effects > most:
                    raise watch.too_many_effects()
                try:
                    checked = checked_effect(entry, event, effect)
                    if is_natural and (problem := natural_problem(checked, event.topic)):
                        raise EffectRefused(problem)
                except EffectRefused as error:
                    refused = error
                    break
                effects.append(checked)
                if type(checked) is Read:
                    break
        finally:
            cells[RUNNING] = 0
            if watch.expired == watch.number:
                raise watch.timed_out()
        if refused is None:
            return
        frames = yield_frames(self._steps)
        located = EffectRefused(f"{shown_path(frames[-1].file)}:{frames[-1].line}: {refused}")
        located.frames = frames
        raise located

    def close(self) -> None:
        """Closes the handler. Raises the errors that the handler raises at its end."""
        watch, cells = self._watch, self._watch.cells
        cells[RUNNING] = watch.number
        try:
            if self._steps is not None:
                self._steps.close()
        finally:
            cells[RUNNING] = 0
            if watch.expired == watch.number:
                raise watch.timed_out()


def end_quietly(steps: Generator[Any, Any, Any] | HandlerSteps) -> None:
    """Closes a run whose result is not used. Ignores the handler's errors."""
    try:
        steps.close()
    except BaseException as error:
        if is_worker_stop(error):
            raise
