"""Describes errors of handlers as text: handler, file, line and a short traceback.

Frames are not kept, because they hold the payload of the event.
"""

import linecache
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from types import GeneratorType, TracebackType
from typing import Any, NamedTuple

from sluice.db.values import printable
from sluice.runtime.worker_stop import is_worker_stop
from sluice.tasks.api import EffectRefused
from sluice.tasks.events.event_fault import EventFault, HandlerPlace
from sluice.tasks.events.payload import is_any_object
from sluice.tasks.fold.registry import AnyEntry
from sluice.tasks.fold.shown_path import shown_path

MAX_TRACEBACK_CHARACTERS = 4_000
MAX_FRAMES = 20  # the most recent ones
MAX_CAUSES = 3
MAX_LINE_CHARACTERS = 200
OWN_MODULES = "sluice."


class Frame(NamedTuple):
    """A line of code that was running."""

    file: str
    line: int
    function: str


def blame(error: BaseException, entry: AnyEntry) -> EventFault:
    """Returns the fault of an error that a handler or one of its effects raised.

    Removes the frames from the error. Otherwise an error object that is raised again and again would collect
    frames.
    """
    try:
        fault = _fault_of(error, entry)
        if type(error) is AttributeError and type(error.obj) is dict and is_any_object(entry.data_type):
            # With a declared type the data has attributes.
            key = printable(f"{error.name!r:.80}")
            hint = f"; write [{key}], or declare the type of the data, as in Event[OrderPlaced]"
            fault = replace(fault, text=fault.text + hint)
        return fault
    finally:
        BaseException.with_traceback(error, None)


def _fault_of(error: BaseException, entry: AnyEntry) -> EventFault:
    at = place_of(entry)
    try:
        first, frames, left_out = _frames_of(error)
        text = "" if first is None else printable(_traceback(error, frames, left_out))
    except BaseException as second:
        # The attributes of a user's own class may raise.
        if is_worker_stop(second):
            raise
        return EventFault.of(error, at)
    if first is None:
        return EventFault.of(error, at)
    deepest = next((frame for frame in reversed(frames) if frame.file == first.file), first)
    at = HandlerPlace(entry.name, shown_path(deepest.file), deepest.line)
    return EventFault.of(error, at, text)


def place_of(entry: AnyEntry) -> HandlerPlace:
    """Returns the place where a handler is defined."""
    code = entry.function.__code__
    return HandlerPlace(entry.name, shown_path(code.co_filename), code.co_firstlineno)


def yield_frames(steps: Any) -> tuple[Frame, ...]:
    """Returns the frames of a suspended generator. For `yield from` the innermost frame is last."""
    frames = [_frame_of(steps)]
    while isinstance(steps.gi_yieldfrom, GeneratorType):
        steps = steps.gi_yieldfrom
        frames.append(_frame_of(steps))
    return tuple(frames)


def _frame_of(steps: Any) -> Frame:
    return Frame(steps.gi_code.co_filename, steps.gi_frame.f_lineno, steps.gi_code.co_qualname)


def _frames_of(error: BaseException) -> tuple[Frame | None, list[Frame], int]:
    """Returns the handler's own frame, the most recent frames, and the number of omitted frames."""
    refused_at = error.frames if isinstance(error, EffectRefused) else ()
    first: Frame | None = None
    recent: deque[Frame] = deque(maxlen=MAX_FRAMES)
    count = 0
    for frame in (Frame(*one) for one in refused_at) if refused_at else _outside(error.__traceback__):
        first = first or frame
        recent.append(frame)
        count += 1
    return first, list(recent), count - len(recent)


def _outside(traceback: TracebackType | None) -> Iterator[Frame]:
    """Yields the frames, beginning with the first frame outside of Sluice."""
    is_outside = False
    while traceback is not None:
        frame = traceback.tb_frame
        is_outside = is_outside or not str(frame.f_globals.get("__name__", "")).startswith(OWN_MODULES)
        if is_outside:
            yield Frame(frame.f_code.co_filename, traceback.tb_lineno, frame.f_code.co_qualname)
        traceback = traceback.tb_next


def _traceback(error: BaseException, frames: list[Frame], left_out: int) -> str:
    """Returns the traceback as at most MAX_TRACEBACK_CHARACTERS. Keeps the most recent frames."""
    causes = _causes(error)
    shown = [_shown(frame) for frame in frames]
    # The remaining characters are for the first line and the line about omitted frames.
    room = MAX_TRACEBACK_CHARACTERS - MAX_LINE_CHARACTERS - sum(len(line) + 1 for line in causes)
    while len(shown) > 1 and sum(len(lines) + 1 for lines in shown) > room:
        del shown[0]
        left_out += 1
    head = ["Traceback of the handler (most recent call last):"]
    if left_out:
        head.append(f"  {left_out} earlier frames left out")
    return "\n".join([*head, *shown, *causes])[:MAX_TRACEBACK_CHARACTERS]


def _shown(frame: Frame) -> str:
    head = f"  File {_shown_place(frame)}, in {frame.function[:MAX_LINE_CHARACTERS]}"
    source = linecache.getline(frame.file, frame.line).strip()[:MAX_LINE_CHARACTERS]
    return f"{head}\n    {source}" if source else head


def _shown_place(frame: Frame) -> str:
    return f'"{shown_path(frame.file)[-MAX_LINE_CHARACTERS:]}", line {frame.line}'


def _causes(error: BaseException) -> list[str]:
    """Returns a line for each of the first causes. Omits the texts, because they may contain values."""
    lines: list[str] = []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None and len(lines) < MAX_CAUSES:
        *_, last = (None, *_outside(cause.__traceback__))
        where = "" if last is None else f" at {_shown_place(last)}"
        lines.append(f"Caused by {type(cause).__name__[:MAX_LINE_CHARACTERS]}{where}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return lines
