"""The health file, which a healthy process touches; `python -m sluice.runtime.health` checks it."""

import os
import sys
import time
from pathlib import Path

DEFAULT_HEALTH_FILE = "/tmp/sluice-alive"
TOUCH_EVERY_SECONDS = 5.0
STALE_AFTER_SECONDS = 30.0  # a solo worker runs no timers during a batch, which may take 20 seconds


def touch_health(health_file: str) -> None:
    """Touches the file. A loop calls it in each turn. Idempotent."""
    Path(health_file or DEFAULT_HEALTH_FILE).touch()


def is_healthy(health_file: Path, now: float) -> bool:
    """Returns True if the file was touched within the last STALE_AFTER_SECONDS; `now` in seconds since 1970.

    A time in the future also counts as stale. It means that the clock was set back. If the process is alive,
    its loop touches the file again within seconds.
    """
    try:
        return abs(now - health_file.stat().st_mtime) < STALE_AFTER_SECONDS
    except FileNotFoundError:
        return False


def main() -> int:
    """Returns the exit code."""
    path = os.environ.get("SLUICE_HEALTH_FILE") or DEFAULT_HEALTH_FILE
    return 0 if is_healthy(Path(path), time.time()) else 1


if __name__ == "__main__":
    sys.exit(main())
