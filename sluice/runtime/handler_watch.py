"""Limits the time of the handlers of one event, and the number of their effects.

A timer sends a signal to the main thread. The signal also interrupts a sleep, a blocking read and a regular
expression. A watching thread could not interrupt a regular expression, because its engine keeps the
interpreter lock. The time is counted in ticks of the timer, so time in which the process was frozen does not
count.

The signal cannot interrupt code in C that never checks for signals. The supervisor detects such a handler in
the shared memory (`handler_mark`), and kills this process.

The time-out may be raised only in the handler's code. An assignment before this code and one after it mark
the code. They are enough, because CPython runs signal handlers only after a call, at a function's start and
at a loop's end.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from types import FrameType
from typing import Protocol

from sluice.runtime.handler_mark import MARK_BYTES, RUNNING, write_label, write_place
from sluice.runtime.place import EventPlace
from sluice.runtime.settings import Settings

TICKS_OF_LIMIT = 20
SHORTEST_TICK_SECONDS, LONGEST_TICK_SECONDS = 0.01, 0.5


class HandlerTimedOut(BaseException):
    """The handlers of an event exceeded their time.

    Not a subclass of Exception, so that `except Exception` in a handler does not catch it.
    """


class TooManyEffects(Exception):
    """The event's handlers yielded more effects than one event may have."""


@dataclass(slots=True)
class Limits:
    """The limits of the handlers of one event. `timed` enforces the time."""

    seconds: float = 10.0
    effects: int = 100_000


limits = Limits()
"""The limits of this process."""


def set_limits(settings: Settings) -> None:
    """Sets the limits of this process from its settings. Call it at the start of the process."""
    limits.seconds, limits.effects = settings.handler_seconds, settings.handler_effects


class Journal(Protocol):
    """Notes the event whose handlers run. For a worker that shares no memory with a supervisor.

    Never raises.
    """

    def begin(self, queue: str, place: EventPlace) -> None:
        """Notes that the handlers of the event begin to run."""

    def end(self, queue: str) -> None:
        """Notes that the handlers have ended."""


class HandlerWatch:
    """The event whose handlers one thread runs, and the time and the number of effects of this run.

    `cells[RUNNING]` is `number` while code of a handler runs, else 0. `iter_effects` sets this cell.
    """

    __slots__ = (
        "_label",
        "_seen",
        "_used",
        "cells",
        "effects",
        "expired",
        "handler",
        "journal",
        "number",
        "queue",
    )

    def __init__(self) -> None:
        self.cells = memoryview(bytearray(MARK_BYTES)).cast("q")
        self.number = 0
        """The number of the current run. It increases with each run of an event's handlers."""
        self.expired = -1
        """The number of the run that exceeded its time; −1 if no run did."""
        self.effects = 0
        self.handler = ""
        self.queue = ""
        self.journal: Journal | None = None
        self._seen = 0
        self._used = 0.0
        self._label: tuple[str, str, str] | None = None

    def attach(self, memory: memoryview) -> None:
        """From now on, marks running handlers in memory that a supervisor reads."""
        self.cells = memory.cast("q")

    def detach(self) -> None:
        """From now on, marks running handlers in private memory of this process."""
        self.cells = memoryview(bytearray(MARK_BYTES)).cast("q")
        self._label = None

    def begin(self, topic: str, topic_id: str, partition: int, offset: int) -> None:
        """Begins one run of all handlers of the event at this position."""
        self.number += 1
        self.effects = 0
        write_place(self.cells, partition, offset)
        label = (self.queue, topic, topic_id)
        if label != self._label:
            write_label(self.cells, label)
            self._label = label
        if self.journal is not None:
            self.journal.begin(self.queue, EventPlace(topic, topic_id, partition, offset))

    def end(self) -> None:
        """Ends the run."""
        if self.journal is not None:
            self.journal.end(self.queue)

    def too_many_effects(self) -> TooManyEffects:
        """Returns the error for a run with more effects than one event may have."""
        return TooManyEffects(
            f"{self.handler} yielded effect {self.effects} of this event: all its handlers together may"
            f" yield {limits.effects} (SLUICE_HANDLER_EFFECTS); split the event, or raise the limit"
        )

    def note_tick(self, seconds: float) -> None:
        """Counts a tick of the timer.

        Raises HandlerTimedOut if the running handlers have exceeded their time. Raises it again at each
        further tick until the handler has ended.
        """
        running = self.cells[RUNNING]
        if running == 0:
            return
        if running != self._seen:
            # The run began after the previous tick, so it has lasted for less than a tick.
            self._seen, self._used = running, 0.0
            return
        self._used += seconds
        if self._used >= limits.seconds:
            self.expired = running
            raise self.timed_out()

    def timed_out(self) -> HandlerTimedOut:
        return HandlerTimedOut(
            f"{self.handler} was stopped: the handlers of this event ran for {limits.seconds:g} s"
            " (SLUICE_HANDLER_SECONDS); make them faster, or raise the limit"
        )


main_watch = HandlerWatch()
"""The watch of the main thread. Timer and supervisor watch only this thread."""
_other_threads = threading.local()
_main_thread_id = threading.main_thread().ident


def current_watch() -> HandlerWatch:
    """Returns the watch of the calling thread."""
    if get_ident() == _main_thread_id:
        return main_watch
    if not hasattr(_other_threads, "watch"):
        _other_threads.watch = HandlerWatch()
    watch: HandlerWatch = _other_threads.watch
    return watch


@contextmanager
def timed(queue: str) -> Iterator[None]:
    """Limits the time of the handlers of one queue that run in the block.

    Has no effect outside of the main thread. Uses SIGALRM. Calls of effects use SIGALRM too, but a process
    never runs handlers and calls at the same time. A handler must not use SIGALRM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    tick = tick_seconds(limits.seconds)

    def note_tick(_number: int, _frame: FrameType | None) -> None:
        main_watch.note_tick(tick)

    outer_queue, main_watch.queue = main_watch.queue, queue
    function = signal.signal(signal.SIGALRM, note_tick)
    timer = signal.setitimer(signal.ITIMER_REAL, tick, tick)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, function)
        main_watch.queue = outer_queue


def tick_seconds(limit_seconds: float) -> float:
    """Returns the interval of the timer for a limit.

    The handlers of an event are stopped at most two intervals after the limit.
    """
    return min(LONGEST_TICK_SECONDS, max(SHORTEST_TICK_SECONDS, limit_seconds / TICKS_OF_LIMIT))
