"""Starts Python programs as processes that end with the process that started them."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

_PR_SET_PDEATHSIG = 1


class Child(Protocol):
    """The methods of `subprocess.Popen` that are used here."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Start(Protocol):
    """Starts `python -m module words…` in a new session that ends with the calling process."""

    def __call__(
        self,
        module: str,
        words: Sequence[str],
        *,
        environ: Mapping[str, str],
        folder: Path,
        files: tuple[int, int, int],
    ) -> Child: ...


def start_new(
    module: str,
    words: Sequence[str],
    *,
    environ: Mapping[str, str],
    folder: Path,
    files: tuple[int, int, int],
) -> subprocess.Popen[bytes]:
    """Starts a new interpreter."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        stdin=files[0],
        stdout=files[1],
        stderr=files[2],
        env=environ,
        cwd=folder,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    # Ends the process even after kill -9 of the demo or of pytest.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
