"""A `World` in memory and a `PostgresWorld` give equal results for random sequences."""

import random

import pytest

from sluice.testing import World
from sluice.testing.any_world import AnyWorld
from sluice.testing.servers.postgres_world import postgres_world
from tests.db.testing import scripts_app
from tests.db.testing.random_events import actions

# The number of actions between two comparisons. A comparison is slow, because it reads all rows and letters.
COMPARE_EVERY = 25


@pytest.mark.parametrize("seed", range(3))
def test_both_worlds_agree(seed: int, database_url: str) -> None:
    compare(seed, database_url, count=120)


@pytest.mark.matrix
@pytest.mark.parametrize("seed", range(100, 112))
def test_both_worlds_agree_for_long_sequences(seed: int, database_url: str) -> None:
    compare(seed, database_url, count=300)


def compare(seed: int, database_url: str, count: int) -> None:
    in_memory = World(scripts_app)
    with postgres_world(database_url, scripts_app) as in_postgres:
        for number, (name, act) in enumerate(actions(random.Random(seed), count)):
            where = f"seed {seed}, action {number}: {name}"
            assert act(in_memory) == act(in_postgres), where
            if number % COMPARE_EVERY == 0 or name.startswith("re") or number == count - 1:
                assert_equal(in_memory, in_postgres, where)
    seen = set(in_memory.outcomes)
    assert {"applied", "stale", "dead", "waiting"} <= seen, "the sequence must have all these outcomes"


def assert_equal(one: AnyWorld, other: AnyWorld, where: str) -> None:
    assert one.state == other.state, where
    assert one.outcomes == other.outcomes, where
    assert one.emitted == other.emitted, where
    for mine, theirs in zip(one.dead_letters, other.dead_letters, strict=True):
        assert mine == theirs, where
