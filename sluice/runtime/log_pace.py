"""Limits how often the same thing is logged: what repeats with every message says nothing new."""

import time
from collections.abc import Callable, Hashable

LOG_SECONDS = 60.0
MAX_SUBJECTS = 1_000


class LogPace:
    """Allows one line per subject and minute. Not thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_at: dict[Hashable, float] = {}

    def allows(self, subject: Hashable) -> bool:
        """Returns True if nothing was logged about the subject for a minute, and counts as logging it."""
        now = self._clock()
        if now - self._logged_at.get(subject, float("-inf")) < LOG_SECONDS:
            return False
        if len(self._logged_at) >= MAX_SUBJECTS:
            self._logged_at.clear()
        self._logged_at[subject] = now
        return True
