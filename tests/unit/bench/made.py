"""Drains with made-up figures."""

from bench.contenders import Contender
from bench.drain import Drain


def made_drain(contender: Contender, per_second: float, *, turn: int = 0, **cpu_us: float) -> Drain:
    """Returns a drain of 1,000 events."""
    return Drain(
        contender.name,
        contender.guarantee,
        "all new",
        turn,
        1_000,
        1_000 / per_second,
        10,
        cpu_us or {"peer": 1.0},
        1_000.0,
        [],
    )
