"""The processes of `sluice dev`: their commands, their start and end, and their output."""

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from sluice.worker.supervisor import end_with_parent

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PUMP_SECONDS = 0.1
READ_BYTES = 65_536
# A bridge and a worker end after their current batch.
STOP_SECONDS = 30.0

SLUICE = ("-m", "sluice.cli.main")


class Command(NamedTuple):
    """One process that `sluice dev` keeps running."""

    name: str
    words: tuple[str, ...]
    """The arguments of the interpreter."""
    imports_handlers: bool = True


def commands(flower_port: int) -> list[Command]:
    """Returns every process of an installation."""
    # Flower warns about each worker that has not started yet.
    flower = ("--address", "127.0.0.1", "--port", str(flower_port), "--", "--logging=error")
    return [
        Command("bridge", (*SLUICE, "bridge")),
        Command("worker", (*SLUICE, "worker")),
        Command("relay", (*SLUICE, "relay")),
        Command("effects-worker", (*SLUICE, "effects-worker")),
        Command("rebuild-worker", (*SLUICE, "rebuild-worker")),
        Command("beat", (*SLUICE, "beat")),
        Command("flower", (*SLUICE, "flower", *flower), imports_handlers=False),
    ]


NAMES = tuple(command.name for command in commands(0))


class Child:
    """A running process whose output arrives line by line."""

    def __init__(self, command: Command, environ: Mapping[str, str]) -> None:
        self.command = command
        self.started_at = time.monotonic()
        self._unfinished = b""
        self._process = subprocess.Popen(
            [sys.executable, *command.words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
            # The process has a process group of its own. So Ctrl-C reaches only `sluice dev`,
            # which ends the processes.
            process_group=0,
            preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM),
        )
        assert self._process.stdout is not None
        self.is_open = True
        self.output = self._process.stdout.fileno()
        os.set_blocking(self.output, False)

    @property
    def pid(self) -> int:
        """Returns its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Returns the exit code, None while the process runs. −N means that signal N ended the process."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Sends the signal; does nothing if the process has ended."""
        self._process.send_signal(number)

    def read_lines(self) -> list[str] | None:
        """Returns the lines that have arrived, None at the end of the output."""
        try:
            read = os.read(self.output, READ_BYTES)
        except BlockingIOError:
            return []
        *whole, self._unfinished = (self._unfinished + read).split(b"\n")
        if not read:
            return None if not self._unfinished else self._take_unfinished()
        return [line.decode(errors="replace") for line in whole]

    def close(self) -> None:
        """Closes the pipe that contains the output of the process."""
        assert self._process.stdout is not None
        self.is_open = False
        self._process.stdout.close()

    def _take_unfinished(self) -> list[str]:
        line, self._unfinished = self._unfinished, b""
        return [line.decode(errors="replace")]


class Children:
    """All child processes. Shows their output, and counts the signals that end `sluice dev`.
    Single-threaded.
    """

    def __init__(self, show: Callable[[str, str], None]) -> None:
        """`show` is called with the name of a process and a line that it printed."""
        self._show = show
        self._selector = selectors.DefaultSelector()
        self._signals, self._wakeup = socket.socketpair()
        self._selector.register(self._signals, selectors.EVENT_READ)
        self.signals = 0
        """The number of signals that have arrived and that end `sluice dev`."""

    def take_signals(self) -> None:
        """Counts SIGINT, SIGTERM and SIGHUP from now on. Main thread only."""
        for end in (self._signals, self._wakeup):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)

    def start(self, command: Command, environ: Mapping[str, str]) -> Child:
        """Starts a process."""
        child = Child(command, environ)
        self._selector.register(child.output, selectors.EVENT_READ, child)
        return child

    def pump(self, seconds: float) -> None:
        """Shows the output for so many seconds; returns at once if a signal arrives."""
        until = time.monotonic() + seconds
        signals = self.signals
        while self.signals == signals:
            left = until - time.monotonic()
            for key, _ in self._selector.select(max(0.0, left)):
                if key.data is None:
                    arrived = self._signals.recv(64)
                    self.signals += sum(map(arrived.count, SIGNALS))
                else:
                    self._show_lines(key.data)
            if left <= 0:
                return

    def run(self, command: Command, environ: Mapping[str, str]) -> int | None:
        """Runs a process to its end. Returns its exit code, None if a signal ended the wait."""
        child = self.start(command, environ)
        while child.exit_code is None:
            self.pump(PUMP_SECONDS)
            if self.signals:
                self.stop([child])
                return None
        self.finish(child)
        return child.exit_code

    def stop(self, children: Sequence[Child]) -> None:
        """Ends children: SIGTERM, then SIGKILL after STOP_SECONDS or at the second signal from a terminal."""
        for child in children:
            child.send(signal.SIGTERM)
        until, signals = time.monotonic() + STOP_SECONDS, max(1, self.signals)
        while running := [child for child in children if child.exit_code is None]:
            self.pump(PUMP_SECONDS)
            if time.monotonic() > until or self.signals > signals:
                for child in running:
                    child.send(signal.SIGKILL)
        for child in children:
            self.finish(child)

    def finish(self, child: Child) -> None:
        """Shows the last output of an ended child, and closes it. Idempotent."""
        while child.is_open and self._show_lines(child):
            pass
        if child.is_open:
            self._let_go(child)

    def _show_lines(self, child: Child) -> bool:
        """Returns True if there was something to show."""
        lines = child.read_lines()
        if lines is None:
            self._let_go(child)
            return False
        for line in lines:
            self._show(child.command.name, line)
        return bool(lines)

    def _let_go(self, child: Child) -> None:
        self._selector.unregister(child.output)
        child.close()
