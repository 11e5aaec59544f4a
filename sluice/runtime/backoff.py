"""Computes how long to wait after consecutive failures. Pure."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from sluice.runtime.log_pace import LOG_SECONDS

# Short, because a service restarts within seconds and a failed attempt every 0.1 s costs little.
FIRST_SECONDS = 0.1
# After a recovery, the next attempt follows within this time; a failed attempt costs little.
MAX_SECONDS = 2.0

Key = TypeVar("Key", bound=Hashable)

# 2 to this power exceeds every `longest_seconds / first_seconds`, and is still a finite float.
_MAX_DOUBLINGS = 60


def backoff_seconds(first_seconds: float, longest_seconds: float, attempt: int, jitter: float = 0.0) -> float:
    """Returns the pause after the failed attempt number `attempt`, which counts from 1.

    The first pause is `first_seconds`. The pause doubles with every attempt, up to `longest_seconds`.
    `jitter`, a random number from [0, 1), shortens the pause by up to half, so that processes that failed at
    the same time do not retry at the same time.
    """
    doublings = min(max(attempt - 1, 0), _MAX_DOUBLINGS)
    return min(longest_seconds, first_seconds * 2.0**doublings) * (1 - jitter / 2)


class Backoff:
    """Pauses the use of a failing service for a time that doubles with every consecutive failure."""

    def __init__(self, *, max_seconds: float = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._failures = 0
        self._retry_at = 0.0
        self._logged_at = 0.0

    @property
    def failing(self) -> bool:
        """Returns True if the newest attempt failed."""
        return self._failures > 0

    def allows(self, now: float) -> bool:
        """Returns True if the service may be tried."""
        return now >= self._retry_at

    def note_failure(self, now: float) -> bool:
        """Counts a failure. Returns True if it should be logged: the first one, then one per LOG_SECONDS."""
        self._failures += 1
        self._retry_at = now + backoff_seconds(FIRST_SECONDS, self._max_seconds, self._failures)
        # The first line may be omitted, because another component has just logged the same outage.
        is_due = self._failures == 1 or now - self._logged_at >= LOG_SECONDS
        if is_due:
            self._logged_at = now
        return is_due

    def note_success(self) -> bool:
        """Resets the count of failures. Returns True if the previous attempt failed."""
        was_failing, self._failures = self.failing, 0
        return was_failing


class Backoffs(Generic[Key]):
    """A Backoff for each of many services, which fail and recover independently."""

    def __init__(self, *, max_seconds: float = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._failing: dict[Key, Backoff] = {}

    def allows(self, key: Key, now: float) -> bool:
        """Returns True if the service may be tried."""
        return key not in self._failing or self._failing[key].allows(now)

    def note_failure(self, key: Key, now: float) -> bool:
        """Counts a failure. Returns True if it should be logged."""
        return self._failing.setdefault(key, Backoff(max_seconds=self._max_seconds)).note_failure(now)

    def note_success(self, key: Key) -> None:
        """Resets the count of failures. Idempotent."""
        self._failing.pop(key, None)
