"""The health of this process: the endpoint's /healthz and /readyz, and the health file.

A healthy process touches the file, and `python -m sluice.runtime.health` checks its age.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sluice.runtime.server_answers import ServerAnswers

DEFAULT_HEALTH_FILE = "/tmp/sluice-alive"
TOUCH_EVERY_SECONDS = 5.0
# Long, because a solo worker touches no file during a batch, which may take 20 seconds.
STALE_AFTER_SECONDS = 30.0
READY_SECONDS = 10.0
"""The longest time for which /readyz waits for a server."""


class ProcessHealth:
    """What this process reports. The loop's thread writes it, and the endpoint's threads read it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned_at = clock()  # a starting process counts as live
        self._busy_since: float | None = None
        self.busy_limit_seconds = STALE_AFTER_SECONDS
        """The time after which a batch counts as stuck."""
        self.has_joined = False
        """True if the process takes part in the work of its installation, even if nothing is left for it."""
        self.servers = ServerAnswers(clock)
        """The servers that the process needs."""

    def note_turn(self) -> None:
        """Notes a turn of the loop."""
        self._turned_at = self._clock()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Marks a batch, during which the loop does not turn. Use it in the loop's thread only."""
        self._busy_since = self._clock()
        try:
            yield
        finally:
            self._busy_since = None
            self.note_turn()

    def live_complaint(self) -> str:
        """Returns why a restart of the process may help; "" if the process is live."""
        return loop_complaint(
            now=self._clock(),
            turned_at=self._turned_at,
            busy_since=self._busy_since,
            busy_limit_seconds=self.busy_limit_seconds,
        )

    def ready_complaint(self) -> str:
        """Returns why the process does no work; "" if it is ready. Waits for the answers of the servers."""
        if complaint := self.live_complaint():
            return complaint
        if not self.has_joined:
            return "the process has not joined its installation"
        away = (server for server, answers in self.servers.ask(READY_SECONDS).items() if not answers)
        return next((f"{server} does not answer" for server in away), "")


process_health = ProcessHealth()
"""The health of this process."""


def loop_complaint(
    *, now: float, turned_at: float, busy_since: float | None, busy_limit_seconds: float
) -> str:
    """Returns "" if the loop turned lately, or runs a batch within its limit. Pure."""
    if busy_since is not None:
        is_stuck = now - busy_since >= busy_limit_seconds
        return f"a batch has run for more than {busy_limit_seconds:.0f} s" if is_stuck else ""
    is_stale = now - turned_at >= STALE_AFTER_SECONDS
    return f"the loop has not turned for {STALE_AFTER_SECONDS:.0f} s" if is_stale else ""


def touch_health(health_file: str) -> None:
    """Notes a turn and touches the file. A loop calls it in each turn. Idempotent."""
    process_health.note_turn()
    Path(health_file or DEFAULT_HEALTH_FILE).touch()


def is_healthy(health_file: Path, now: float) -> bool:
    """Returns True if the file was touched within the last STALE_AFTER_SECONDS.

    `now` is in seconds since 1970. A time of the file in the future also counts as stale, because then the
    clock was set back. If the process still runs, its loop touches the file again within seconds.
    """
    try:
        return abs(now - health_file.stat().st_mtime) < STALE_AFTER_SECONDS
    except FileNotFoundError:
        return False


def main() -> int:
    """Checks the health file. Returns the exit code."""
    path = os.environ.get("SLUICE_HEALTH_FILE") or DEFAULT_HEALTH_FILE
    return 0 if is_healthy(Path(path), time.time()) else 1


if __name__ == "__main__":
    sys.exit(main())
