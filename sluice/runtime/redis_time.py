"""The clock of Redis, as one of its clients estimates it. Pure except for the request.

Times that several machines write and compare, such as those of messages in hand, use this one clock.
"""

import time
from collections.abc import Callable

ASK_SECONDS = 5.0
"""Bounds the time until a jump of the clock, or another clock after a failover, is noticed."""


class RedisTime:
    """Seconds since 1970 by the clock of Redis.

    Sends a request at most every ASK_SECONDS; in between, adds the monotonic clock to the last answer.
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
