"""The health file.

A healthy process touches this file, and `python -m sluice.runtime.health` checks its age.
"""

import os
import sys
import time
from pathlib import Path

DEFAULT_HEALTH_FILE = "/tmp/sluice-alive"
TOUCH_EVERY_SECONDS = 5.0
# Long, because a solo worker touches no file during a batch, which may take 20 seconds.
STALE_AFTER_SECONDS = 30.0


def touch_health(health_file: str) -> None:
    """Touches the file. A loop calls it in each turn. Idempotent."""
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
