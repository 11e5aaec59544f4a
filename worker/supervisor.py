"""Starts a worker, watches the handlers that it runs, and starts the next worker when it has ended.

The worker marks each event in shared memory while the event's handlers run. Therefore the supervisor can read
which event ended a worker, for every kind of end. The supervisor kills a worker whose handler cannot be
interrupted. Before the next worker starts, the supervisor stores the event in Postgres.
"""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from select import select
from typing import NamedTuple

import structlog

from sluice.runtime.handler_mark import (
    MARK_VARIABLE,
    RUNNING,
    STATE,
    WorkerState,
    make_memory,
    map_memory,
    read_mark,
)
from sluice.worker.supervision import Death, Decision, Ended, HandlerClock, ProcessTimes, decide, describe_end

log = structlog.get_logger("sluice.supervisor")

TICK_SECONDS = 0.25
# After SIGHUP, which a closed terminal sends, the worker ends too. It receives SIGTERM, because Celery would
# restart after a SIGHUP.
PASSED_ON = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGQUIT: signal.SIGQUIT,
    signal.SIGHUP: signal.SIGTERM,
}
STORE_PAUSE_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1

StoreDeath = Callable[[Death], bool]
"""Stores a death. Returns False if the death was not stored and must be stored again."""


class Worker(NamedTuple):
    """A running worker, and the memory that it shares with the supervisor."""

    pid: int
    memory: memoryview
    started_at: float


class Supervisor:
    """Runs one worker after the other, until a signal to end arrives or no other worker may be started."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        handler_seconds: float,
        store_death: StoreDeath,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`command` starts the worker."""
        self._command = command
        self._environ = environ
        self._handler_seconds = handler_seconds
        self._store_death = store_death
        self._clock = clock
        self._is_ordered = False
        self._worker: Worker | None = None
        self._signals, self._wakeup = socket.socketpair()

    def run(self) -> int:
        """Runs workers. Returns the exit code. Call it once, in the main thread."""
        self._take_signals()
        failures = 0
        while True:
            ended = self._run_worker()
            decision = decide(ended, failures)
            failures = decision.failures
            self._log(ended, decision)
            if decision.death is not None:
                self._store(decision.death)
            if decision.exit_code is not None:
                return decision.exit_code
            self._wait(decision.pause_seconds)
            if self._is_ordered:
                log.info("stop requested; no other worker is started")
                return 0

    def _run_worker(self) -> Ended:
        descriptor = make_memory()
        try:
            worker = self._start(descriptor)
        finally:
            os.close(descriptor)
        self._worker = worker
        cells = worker.memory.cast("q")
        handler_clock = HandlerClock(self._handler_seconds)
        killed_run: int | None = None
        while (exit_code := _reap(worker.pid)) is None:
            seconds = self._wait(TICK_SECONDS)
            running = cells[RUNNING]
            times = read_times(worker.pid) if running else None
            if handler_clock.is_over(running, times, seconds) and killed_run is None:
                killed_run = running
                os.kill(worker.pid, signal.SIGKILL)
        self._worker = None
        return Ended(
            exit_code,
            WorkerState(cells[STATE]),
            read_mark(worker.memory),
            killed_run,
            self._clock() - worker.started_at,
            self._is_ordered,
        )

    def _start(self, descriptor: int) -> Worker:
        memory = map_memory(descriptor)
        supervisor = os.getpid()
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            env={**self._environ, MARK_VARIABLE: f"{descriptor}:{supervisor}"},
            pass_fds=[descriptor],
            # A terminal sends its signals to all processes of the foreground group. The worker has its own
            # group, so that it gets each signal only once, from the supervisor.
            process_group=0,
            preexec_fn=lambda: end_with_parent(supervisor),
        )
        process.returncode = 0  # makes Popen not wait for the process, because `_reap` does that
        return Worker(process.pid, memory, self._clock())

    def _log(self, ended: Ended, decision: Decision) -> None:
        how = describe_end(ended.exit_code)
        if decision.death is not None:
            mark = decision.death.mark._asdict()
            log.warning("worker ended inside a handler", how=decision.death.how, **mark)
        if decision.exit_code is None:
            log.warning("worker ended; starting another one", how=how, pause_seconds=decision.pause_seconds)
        elif ended.is_ordered or decision.exit_code == 0:
            log.info("worker ended", how=how)
        else:
            log.error("worker ended at its start; it is not started again", how=how)

    def _store(self, death: Death) -> None:
        """Stores a death before another worker runs the event.

        Retries until the death is stored or a signal to end arrives.
        """
        while not self._store_death(death) and not self._is_ordered:
            self._wait(STORE_PAUSE_SECONDS)

    def _take_signals(self) -> None:
        for end in (self._signals, self._wakeup):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, *PASSED_ON):
            signal.signal(number, lambda *_: None)

    def _wait(self, seconds: float) -> float:
        """Waits until the time is over or a signal arrives. Passes signals on to the worker.

        Returns the waited seconds, but at most `seconds`, because time in which this process was frozen must
        not count.
        """
        began = self._clock()
        arrived = b""
        if select([self._signals], [], [], seconds)[0]:
            arrived = self._signals.recv(64)
        for number, passed in PASSED_ON.items():
            if number in arrived:
                self._is_ordered = True
                if self._worker is not None:
                    log.info("signal passed on to the worker", signal=signal.Signals(passed).name)
                    os.kill(self._worker.pid, passed)
        return min(seconds, self._clock() - began)


def read_times(pid: int) -> ProcessTimes | None:
    """Returns the kernel's report about a process; None if the kernel has no report."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The name of the program is in parentheses, and may contain parentheses.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return ProcessTimes(fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))


def _reap(pid: int) -> int | None:
    """Returns the exit code of a child; None while it runs. Also reaps other ended processes.

    If the supervisor is the first process of a container, it is the parent of every orphaned process.
    """
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == 0:
            return None
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def end_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Makes the kernel send this signal to this process when its parent ends.

    Runs in the child process before its program starts.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)
