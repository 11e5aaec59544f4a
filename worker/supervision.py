"""Decides the actions of a supervisor for its worker. Pure."""

import signal
from typing import NamedTuple

from sluice.runtime.handler_mark import Mark, WorkerState

LONGEST_GRACE_SECONDS = 2.5
"""The longest time that a supervisor waits after the limit.

A worker itself stops a handler within two ticks after the limit, if Python can interrupt the handler.
"""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
DEATHS_WITHOUT_PAUSE = 6
"""The number of consecutive failures without a pause.

An event becomes a dead letter after three deaths, so this number is enough for two such events.
"""
STEADY_SECONDS = 60.0
"""A worker that ran for at least this long did not fail at its start."""
SIGNAL_EXIT_CODE = 128  # the number of the signal is added, as in a shell


class ProcessTimes(NamedTuple):
    """The kernel's report about a process."""

    state: str
    """One letter: R runs or waits for a processor, S sleeps, D waits for a disk, T is stopped."""
    cpu_seconds: float


class HandlerClock:
    """Measures how long the worker has run handlers of one event, by the supervisor's own ticks.

    Time does not count while the worker is stopped, waits for a disk, or gets no processor on a busy
    machine.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds + min(limit_seconds, LONGEST_GRACE_SECONDS)
        self._number = 0
        self._used = 0.0
        self._cpu_seconds = 0.0

    def is_over(self, number: int, times: ProcessTimes | None, tick_seconds: float) -> bool:
        """Counts a tick. Returns True if the run of this number has exceeded the limit and the grace time.

        The number 0 means that no handler runs. `times` is None if the kernel reports no times.
        """
        cpu_seconds = self._cpu_seconds if times is None else times.cpu_seconds
        if number != 0 and number == self._number:
            self._used += usable_seconds(times, cpu_seconds - self._cpu_seconds, tick_seconds)
        else:
            self._number, self._used = number, 0.0
        self._cpu_seconds = cpu_seconds
        return number != 0 and self._used >= self._limit


def usable_seconds(times: ProcessTimes | None, cpu_seconds: float, tick_seconds: float) -> float:
    """Returns the part of a tick that counts.

    `cpu_seconds`: the processor time of the worker in that tick.
    """
    if times is None or times.state in "SI":
        return tick_seconds
    return min(tick_seconds, max(0.0, cpu_seconds)) if times.state == "R" else 0.0


class Ended(NamedTuple):
    """The end of a worker."""

    exit_code: int
    """A negative value is the number of the signal."""
    state: WorkerState
    mark: Mark | None
    """The event whose handler was running; None if no handler was running."""
    killed_run: int | None
    """The number of the run for which the supervisor killed the worker; None if it did not."""
    ran_seconds: float
    is_ordered: bool
    """True if the supervisor received a signal to end and passed it on to the worker."""


class Death(NamedTuple):
    """The end of a process inside the handlers of an event."""

    mark: Mark
    timed_out: bool
    how: str


class Decision(NamedTuple):
    """The next action.

    `exit_code`: the supervisor's exit code; None if the supervisor starts another worker.
    """

    death: Death | None
    exit_code: int | None
    failures: int
    """The number of consecutive workers that ended soon after their start."""
    pause_seconds: float


def decide(ended: Ended, failures: int) -> Decision:
    """Decides the next action after the end of a worker.

    `failures`: the consecutive failures before this end.
    """
    death = find_death(ended)
    exit_code = ended.exit_code if ended.exit_code >= 0 else SIGNAL_EXIT_CODE - ended.exit_code
    if ended.is_ordered:
        return Decision(death, exit_code, 0, 0.0)
    failures = 1 if ended.ran_seconds >= STEADY_SECONDS else failures + 1
    if ended.mark is not None or ended.killed_run is not None:
        # There is no pause after the first failures, because other events wait. Except in a rebuild, an event
        # is not tried again after a few deaths.
        return Decision(death, None, failures, pause_seconds(failures - DEATHS_WITHOUT_PAUSE))
    if ended.exit_code == 0 and ended.state is WorkerState.ENDING:
        return Decision(None, 0, 0, 0.0)
    if ended.exit_code >= 0 and ended.state is WorkerState.STARTING:
        # The worker refused to start and has logged the reason. The next worker would refuse too.
        return Decision(None, exit_code, 0, 0.0)
    return Decision(None, None, failures, pause_seconds(failures))


def find_death(ended: Ended) -> Death | None:
    """Returns the death inside a handler; None if no handler ran.

    Also returns None if the supervisor killed the worker for a run, but a later run had begun.
    """
    if ended.mark is None:
        return None
    if ended.killed_run is None:
        return Death(ended.mark, False, describe_end(ended.exit_code))
    if ended.killed_run != ended.mark.number:
        return None
    return Death(ended.mark, True, "killed by its supervisor, because the handler could not be interrupted")


def describe_end(exit_code: int) -> str:
    """Returns how a process ended, in words."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"signal {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"signal {-exit_code}"


def pause_seconds(failures: int) -> float:
    """Returns the seconds to wait before the next worker after this number of consecutive failures."""
    if failures <= 0:
        return 0.0
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 10))
