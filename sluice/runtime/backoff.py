"""How long a service that failed is left alone. Pure."""

FIRST_SECONDS = 0.1
MAX_SECONDS = 2.0  # a service that is back should be used at once; a call that fails costs little


class Backoff:
    """Doubles with every failure in a row."""

    def __init__(self, *, max_seconds: float = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._delay = FIRST_SECONDS
        self._retry_at = 0.0
        self.failing = False

    def allows(self, now: float) -> bool:
        """Whether the service may be tried."""
        return now >= self._retry_at

    def note_failure(self, now: float) -> bool:
        """It failed; whether that is news."""
        news, self.failing = not self.failing, True
        self._retry_at = now + self._delay
        self._delay = min(2 * self._delay, self._max_seconds)
        return news

    def note_success(self) -> bool:
        """It answered; whether that is news."""
        news, self.failing = self.failing, False
        self._delay = FIRST_SECONDS
        return news
