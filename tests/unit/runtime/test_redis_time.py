"""Redis' clock between two answers."""

from sluice.runtime.redis_time import ASK_SECONDS, RedisTime


class World:
    """A Redis whose clock is set at will, and the monotonic clock of a client."""

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


def test_it_goes_on_from_the_last_answer_without_asking() -> None:
    world = World()
    assert world.time.now() == 1_000.0
    world.wait(ASK_SECONDS / 2)
    assert world.time.now() == 1_000.0 + ASK_SECONDS / 2
    assert world.asked == 1


def test_a_redis_whose_clock_jumps_is_asked_again_within_ten_seconds() -> None:
    world = World()
    world.time.now()
    for jump in (3_600.0, -7_200.0):
        world.redis += jump
        world.wait(10.0)
        assert world.time.now() == world.redis
