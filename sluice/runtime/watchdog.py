"""Ends a process whose loop no longer turns. The supervisor of the process then starts it again.

A call of a client library may block forever. Then neither a time-out in the loop nor SIGTERM ends the
process, because Python runs a signal's handler only between two instructions of the main thread. Therefore
another thread counts the seconds since the last turn of the loop. The thread counts its own ticks, so neither
a jump of the clock nor a frozen process triggers the watchdog.
"""

import faulthandler
import os
import signal
import socket
import sys
import threading
from select import select

STUCK_EXIT_CODE = 70
TICK_SECONDS = 1.0
# While a call keeps the interpreter lock, no other Python thread runs. After this time, a timer in C ends the
# process.
LOCKED_SECONDS = 300.0


class Watchdog:
    """A watchdog. Call `start` once in the main thread, `turned` in every turn, and `stop` at the end."""

    def __init__(self, *, turn_seconds: float, stop_seconds: float) -> None:
        """A turn may take `turn_seconds`. After SIGTERM the process may take `stop_seconds` to end."""
        self._turn_seconds = turn_seconds
        self._stop_seconds = stop_seconds
        self._idle_seconds = self._stopping_seconds = 0.0
        self._signals, self._wakeup = socket.socketpair()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Starts the thread. From now on, the thread also notices signals."""
        for end in (self._signals, self._wakeup):
            end.setblocking(False)
        # The interpreter writes to this socket as soon as a signal arrives, even while the main thread is
        # blocked.
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        self._thread.start()

    def turned(self) -> None:
        """Notes that the loop has turned."""
        self._idle_seconds = 0.0

    def stop(self) -> None:
        """Ends the thread. Idempotent."""
        self._stopped.set()
        if self._thread.is_alive():
            signal.set_wakeup_fd(-1)
            self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        is_stopping = False
        while not self._stopped.is_set():
            faulthandler.dump_traceback_later(LOCKED_SECONDS, exit=True)
            is_stopping = self._has_signal() or is_stopping
            if self._stopped.wait(TICK_SECONDS):
                return
            self._idle_seconds += TICK_SECONDS
            self._stopping_seconds += TICK_SECONDS if is_stopping else 0.0
            if self._idle_seconds >= self._turn_seconds:
                _end(f"the loop has not turned for {self._idle_seconds:.0f} s")
            if self._stopping_seconds >= self._stop_seconds:
                _end(f"the process has not ended {self._stopping_seconds:.0f} s after a signal to stop")

    def _has_signal(self) -> bool:
        """Returns True if a signal to stop has arrived."""
        if not select([self._signals], [], [], 0)[0]:
            return False
        return bool({signal.SIGTERM, signal.SIGINT}.intersection(self._signals.recv(64)))


def _end(reason: str) -> None:
    sys.stderr.write(f"process ended by its watchdog: {reason}; its threads were:\n")
    faulthandler.dump_traceback(all_threads=True)
    os._exit(STUCK_EXIT_CODE)
