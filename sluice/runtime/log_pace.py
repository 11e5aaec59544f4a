"""Limits how often the same subject is logged."""

import time
from collections.abc import Callable, Hashable

LOG_SECONDS = 60.0
MAX_SUBJECTS = 1_000


class LogPace:
    """Allows one line per subject and minute. Not thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_at: dict[Hashable, float] = {}
        self._left_out: dict[Hashable, int] = {}

    def allows(self, subject: Hashable) -> bool:
        """Returns True if a line about the subject may be logged now. The caller must then log it."""
        return self.count(subject) is not None

    def count(self, subject: Hashable) -> int | None:
        """Returns None if the caller must omit the line.

        Otherwise returns the number of lines omitted before.
        """
        now = self._clock()
        if now - self._logged_at.get(subject, float("-inf")) < LOG_SECONDS:
            self._left_out[subject] = self._left_out.get(subject, 0) + 1
            return None
        left_out = self._left_out.pop(subject, 0)
        if len(self._logged_at) >= MAX_SUBJECTS:
            self._logged_at.clear()
            self._left_out.clear()
        self._logged_at[subject] = now
        return left_out
