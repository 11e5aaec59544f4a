"""The clock of Redis, as one of its clients estimates it. Pure except for the request.

Several machines write and compare the times of messages in hand, so these times use one clock.
"""

import time
from collections.abc import Callable

ASK_SECONDS = 5.0
"""After this time at the latest, a jump of the clock is noticed, or a failover to another clock."""


class RedisTime:
    """Seconds since 1970 by the clock of Redis.

    Sends a request at most every ASK_SECONDS. Between requests, adds the time by the monotonic clock to the
    last answer.
    """

    def __init__(
        self, ask: Callable[[], tuple[int, int]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`ask` returns the answer to TIME: seconds and microseconds."""
        self._ask = ask
        self._clock = clock
        self._asked_at = float("-inf")
        self._answer = 0.0

    def now(self) -> float:
        """Returns the time. Raises the errors of `ask`."""
        if self._clock() - self._asked_at >= ASK_SECONDS:
            seconds, microseconds = self._ask()
            self._answer, self._asked_at = seconds + microseconds / 1e6, self._clock()
        return self._answer + self._clock() - self._asked_at
