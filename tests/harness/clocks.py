"""Gives processes a wrong wall clock, which a test can change while they run. Uses libfaketime."""

import glob
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sluice.stack import ComponentMissing
from sluice.testing.servers.local_run import LocalRun

LIBRARIES = "/usr/lib/*/faketime/libfaketimeMT.so.1"
SUPPLEMENT = Path(__file__).with_suffix(".c")


class WallClock:
    """A wall clock for the processes that start with `environ()`. Their monotonic clock stays right."""

    def __init__(self, folder: Path, name: str, seconds: float = 0.0) -> None:
        """Raises ComponentMissing."""
        self._file = folder / f"{name}.clock"
        self._libraries = f"{_build_supplement(folder)}:{_find_library()}"
        self.set(seconds)

    def set(self, seconds: float) -> None:
        """Sets the clock to `seconds` ahead of the real clock, for running processes, too."""
        # The file is replaced atomically, because a process reads the file each time it reads the clock.
        written = self._file.with_suffix(".new")
        written.write_text(f"{seconds:+.3f}s\n")
        written.rename(self._file)

    def environ(self) -> Mapping[str, str]:
        """Returns the environment for a new process. The environment has no effect in a forked process."""
        return {
            "LD_PRELOAD": self._libraries,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }


@contextmanager
def clock_of(run: LocalRun, clock: WallClock) -> Iterator[None]:
    """Gives this clock to the processes that start within the block."""
    before, run.environment = run.environment, {**run.environment, **clock.environ()}
    try:
        yield
    finally:
        run.environment = before


def _find_library() -> str:
    found = glob.glob(LIBRARIES)
    if not found:
        raise ComponentMissing("no libfaketime found: install it (Debian: apt install libfaketime)")
    return found[0]


def _build_supplement(folder: Path) -> Path:
    built = folder / "clocks.so"
    if not built.exists():
        compiler = shutil.which("cc")
        if compiler is None:
            raise ComponentMissing("no C compiler found: install one (Debian: apt install gcc libc6-dev)")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", built, SUPPLEMENT], check=True)
    return built
