"""Redis' clock, as one of its clients knows it. Pure but for the question.

What several machines write and judge by a time, such as the messages in hand, goes by this one clock.
"""

import time
from collections.abc import Callable

ASK_SECONDS = 5.0
"""A Redis whose clock jumps, or another one after a failover, is noticed this soon."""


class RedisTime:
    """Seconds since 1970 by the clock of Redis.

    Redis is asked every ASK_SECONDS at most; from its last answer on, the monotonic clock counts.
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
        """Returns the time. Raises what Redis raises when it is asked."""
        if self._clock() - self._asked_at >= ASK_SECONDS:
            seconds, microseconds = self._ask()
            self._answer, self._asked_at = seconds + microseconds / 1e6, self._clock()
        return self._answer + self._clock() - self._asked_at
