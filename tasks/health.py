"""A healthy process touches a file: its own loop runs, whatever its connections say."""

from pathlib import Path

DEFAULT_HEALTH_FILE = "/tmp/sluice-alive"
TOUCH_EVERY_SECONDS = 5.0
STALE_AFTER_SECONDS = 30.0  # a solo worker runs no timers during a batch, which has 20 seconds of patience


def touch_health(health_file: str) -> None:
    """Tells that the calling loop came by. May run any number of times."""
    Path(health_file or DEFAULT_HEALTH_FILE).touch()
