"""`PostgresWorld` applies constraints that only Postgres can check."""

from collections.abc import Iterator

import pytest

from sluice.testing.servers.postgres_world import PostgresWorld, postgres_world
from tests.unit.testing import planted
from tests.unit.testing.planted import orders


@pytest.fixture
def world(database_url: str) -> Iterator[PostgresWorld]:
    with postgres_world(database_url, planted) as made:
        yield made


def test_a_postgres_world_checks_constraints_that_a_world_in_memory_ignores(world: PostgresWorld) -> None:
    world.given(orders, "o-0", {"status": "NEW", "note": "same", "seen": 3}, version=1)
    sent = {
        "o-1": ({"status": ""}, "CheckViolation"),
        "o-2": ({"note": "same"}, "UniqueViolation"),
        "o-3": ({"parent_id": "o-9"}, "ForeignKeyViolation"),
    }
    for key, (data, _) in sent.items():
        assert world.send("orders", key=key, type="order.set", data=data, version=2) == "dead"
    assert [(one.key, one.error.partition(":")[0]) for one in world.dead_letters] == [
        (key, error) for key, (_, error) in sent.items()
    ]
    assert set(world.rows(orders)) == {"o-0"}
    assert world.row(orders, "o-0") == world.rows(orders)["o-0"]
    assert world.send("orders", key="o-0", type="order.set", version=0) == "stale", (
        "the event is older than the given version"
    )


def test_a_dead_letter_has_the_traceback_of_the_handler(world: PostgresWorld) -> None:
    world.given(orders, "o-1", {"status": "NEW"})
    world.send("orders", key="o-1", type="order.seen", data={"seen": 101}, version=1)
    world.send("orders", key="o-2", type="order.rejected")
    world.send("orders", key="o-2", type="order.rejected")
    found = sorted(world.dead_letters, key=lambda letter: (str(letter.key), letter.outcome))
    assert [(one.projection, "in total" in one.traceback, "in reject" in one.traceback) for one in found] == [
        ("totals", True, False),
        (None, False, True),
        (None, False, False),
    ]


def test_many_dead_letters_do_not_halt_the_queue(world: PostgresWorld) -> None:
    for number in range(120):
        assert world.send("orders", key=f"o-{number}", type="order.rejected") == "dead"
