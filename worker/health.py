"""`python -m worker.health`: exit code 0 if this container's process touched its file lately."""

import os
import sys
import time
from pathlib import Path

from tasks.health import DEFAULT_HEALTH_FILE, STALE_AFTER_SECONDS


def is_healthy(health_file: Path, now: float) -> bool:
    """Whether the file was touched within the last STALE_AFTER_SECONDS; `now` in seconds since 1970."""
    try:
        return now - health_file.stat().st_mtime < STALE_AFTER_SECONDS
    except FileNotFoundError:
        return False


def main() -> int:
    """The exit code."""
    path = os.environ.get("SLUICE_HEALTH_FILE") or DEFAULT_HEALTH_FILE
    return 0 if is_healthy(Path(path), time.time()) else 1


if __name__ == "__main__":
    sys.exit(main())
