"""The time of the Redis clock, computed between two answers of Redis."""

from sluice.runtime.redis_time import ASK_SECONDS, RedisTime


class _Clocks:
    """The clock of Redis, which a test can set, and the monotonic clock of a client."""

    def __init__(self) -> None:
        self.redis = 1_000.0
        self.monotonic = 7.0
        self.asked = 0
        self.time = RedisTime(self.ask, clock=lambda: self.monotonic)

    def ask(self) -> tuple[int, int]:
        self.asked += 1
        return int(self.redis), round(self.redis % 1 * 1e6)

    def wait(self, seconds: float) -> None:
        self.redis += seconds
        self.monotonic += seconds


def test_the_time_is_computed_from_the_last_answer_of_redis() -> None:
    clocks = _Clocks()
    assert clocks.time.now() == 1_000.0
    clocks.wait(ASK_SECONDS / 2)
    assert clocks.time.now() == 1_000.0 + ASK_SECONDS / 2
    assert clocks.asked == 1


def test_a_jump_of_the_redis_clock_is_noticed_within_ten_seconds() -> None:
    clocks = _Clocks()
    clocks.time.now()
    for jump in (3_600.0, -7_200.0):
        clocks.redis += jump
        clocks.wait(10.0)
        assert clocks.time.now() == clocks.redis
