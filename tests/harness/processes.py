"""Starts Python programs fast: by a fork of the zygote, a process that has already imported their modules."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from tests.harness.zygote import Request

PROJECT = Path(__file__).parents[2]


class ForkedChild:
    """A child of the zygote. `returncode` is None while it runs, and -9 after kill -9."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._unread = b""
        self.pid = self._read_number(None)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code, or None while the process runs."""
        with suppress(TimeoutError):
            self._end(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code. Raises subprocess.TimeoutExpired."""
        try:
            return self._end(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0) from None

    def send_signal(self, sig: int) -> None:
        """Sends a signal. Does nothing if the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _end(self, timeout: float | None) -> int:
        if self.returncode is None:
            self.returncode = self._read_number(timeout)
            os.close(self._status)
        return self.returncode

    def _read_number(self, timeout: float | None) -> int:
        while b"\n" not in self._unread:
            if not select.select([self._status], [], [], timeout)[0]:
                raise TimeoutError
            read = os.read(self._status, 64)
            if not read:
                raise RuntimeError("the zygote has ended, and all its children with it")
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return int(line)


class Zygote:
    """A running `tests.harness.zygote`. `start` is thread-safe."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.harness.zygote", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=PROJECT,
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )

    def start(
        self,
        module: str,
        words: Sequence[str],
        *,
        environ: Mapping[str, str],
        folder: Path,
        files: tuple[int, int, int],
    ) -> ForkedChild:
        """Forks a process."""
        request = Request(module, list(map(str, words)), dict(environ), str(folder))
        read, write = os.pipe()
        try:
            socket.send_fds(self._control, [msgspec.json.encode(request)], [*files, write])
        finally:
            os.close(write)
        return ForkedChild(read)

    def close(self) -> None:
        """Ends the zygote and its children."""
        self._control.close()
        self._process.wait()
