"""A shell that runs the shell blocks of a page, as if a person typed them."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sluice.runtime.settings import PREFIX
from tests.waiting import wait_until

# At its end, the shell ends all background processes that it started.
PROLOGUE = "set -e; trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n"


class Shell:
    """A bash that receives blocks one after another, as if a person typed them."""

    def __init__(self, bash: "subprocess.Popen[str]", log: Path) -> None:
        self._bash = bash
        self._log = log
        self._blocks = 0

    @property
    def printed(self) -> str:
        """The whole output of the commands so far."""
        return self._log.read_text(errors="replace")

    def type(self, script: str, *, until: str = "", seconds: float = 120.0) -> str:
        """Types a block. Waits until its foreground commands have ended, or until they have printed a text.

        Returns the output of the block. Fails the test if the shell ends, which happens if a command fails.
        """
        self._blocks += 1
        begin, end = len(self.printed), until or f"end of block {self._blocks}"
        self._write(script if until else f"{script}\necho {end}")
        wait_until(
            lambda: end in self.printed[begin:] or self._bash.poll() is not None,
            timeout_seconds=seconds,
            what=f"{end!r} after\n{script}\nin\n{self.printed}",
        )
        printed = self.printed[begin:]
        assert end in printed, printed
        return printed.partition(end)[0]

    def interrupt(self) -> None:
        """Sends SIGINT to the shell and to its running command, as Ctrl-C does. Waits for the end of both."""
        os.killpg(self._bash.pid, signal.SIGINT)
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        self._bash.wait()

    def _write(self, script: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{script}\n")
        self._bash.stdin.flush()


@contextmanager
def shell(environ: Mapping[str, str], folder: Path, log: Path) -> Iterator[Shell]:
    """Starts a bash. At the end of the block, ends the bash and all processes that the bash started."""
    with (
        log.open("w") as output,
        subprocess.Popen(
            ["bash"],
            env=environ,
            cwd=folder,
            text=True,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as bash,
    ):
        started = Shell(bash, log)
        started.type(PROLOGUE)
        try:
            yield started
        finally:
            if bash.poll() is None:
                os.killpg(bash.pid, signal.SIGINT)  # If the test failed, a command may still run.


def user_environ() -> dict[str, str]:
    """Returns the environment of a user who has not set up Sluice."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL"):
        environ.pop(name, None)
    return environ
