"""Counts refusals, and logs the counts at most once a minute, so that senders cannot fill the log."""

import time
from collections import Counter
from collections.abc import Callable

LOG_INTERVAL_SECONDS = 60.0
MAX_NAMES = 20
MAX_NAME_LENGTH = 40
"""Limits the length of a log line, because senders choose the names."""
OTHERS = "others"


class Refusals:
    """Counts refusals by name.

    Logs the first refusal at once, and later refusals together after the interval.
    """

    def __init__(
        self, write: Callable[[dict[str, int]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._logged_at: float | None = None

    def note(self, name: str) -> None:
        """Counts one refusal, and logs if a line is due."""
        name = name[:MAX_NAME_LENGTH]
        if name not in self._counts and len(self._counts) >= MAX_NAMES:
            name = OTHERS
        self._counts[name] += 1
        self.flush()

    def flush(self) -> None:
        """Logs the counts since the last line if the interval is over. Call it from a timer."""
        now = self._clock()
        due = self._logged_at is None or now - self._logged_at >= LOG_INTERVAL_SECONDS
        if not self._counts or not due:
            return
        counts, self._counts, self._logged_at = dict(self._counts), Counter(), now
        self._write(counts)
