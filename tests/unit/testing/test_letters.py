"""Dead letters in a World: parking, redrives, projections, and a rebuild with changed code."""

from collections.abc import Iterator
from inspect import getsourcelines
from types import ModuleType
from typing import Any

import pytest

from sluice import Call, Effect, Event, ProjectionEffect, Upsert, handles, projects
from sluice.testing import DeadLetter, World
from tests.unit.testing import planted
from tests.unit.testing.planted import orders, profiles, totals
from tests.unit.testing.test_world import ROW, module


@pytest.fixture
def world() -> World:
    return World(planted)


def test_a_failed_event_parks_its_entity_until_a_redrive_applies_the_event(world: World) -> None:
    assert world.send("orders", key="o-1", type="order.rejected") == "dead"
    assert world.send("orders", key="o-1", type="order.placed", version=1) == "waiting"
    assert world.send("orders", key="o-2", type="order.placed", version=1) == "applied"
    world.redrive()
    assert world.send("orders", key="o-1", type="order.set", version=2) == "waiting", (
        "the entity is still parked"
    )
    assert world.outcomes == ["dead", "waiting", "applied", "waiting"], "the handler still fails"

    @handles("order.rejected")
    def accept(event: Event[Any]) -> Iterator[Effect]:
        yield Upsert(orders, event.key, planted.whole(event), version=None)

    world.restart(mended(accept))
    world.redrive()
    assert world.dead_letters == []
    assert world.outcomes == ["applied", "applied", "applied", "applied"]
    assert world.send("orders", key="o-1", type="order.set", version=9) == "applied", "no entity is parked"


def mended(accept: Any) -> ModuleType:
    return module(**{name: value for name, value in vars(planted).items() if name != "reject"}, accept=accept)


def test_a_redrive_applies_entity_by_entity_as_the_command_does(world: World) -> None:
    @handles("order.rejected")
    def accept(event: Event[Any]) -> Iterator[Effect]:
        yield Upsert(orders, "shared", planted.whole(event), version=None)

    for key, status in (("o-1", "A"), ("o-2", "B"), ("o-1", "C")):
        world.send("orders", key=key, type="order.rejected", data={"status": status})
    world.restart(mended(accept))
    world.redrive()
    assert world.rows(orders)["shared"]["status"] == "B", "the last entity is redriven last"


def test_a_failed_event_of_a_topic_that_skips_does_not_park_its_entity(world: World) -> None:
    assert world.send("profiles", key="p-1", type="profile.changed", data={"name": 1}, version=1) == "dead"
    assert (
        world.send("profiles", key="p-1", type="profile.changed", data={"name": "A"}, version=2) == "applied"
    )
    assert world.row(profiles, "p-1") == {"name": "A", "city": None}


def test_a_dead_letter_has_the_file_and_line_of_the_handler(world: World) -> None:
    world.given(orders, "o-1", {"status": "NEW"})
    world.send("orders", key="o-1", type="order.seen", data={"seen": 101}, version=1)
    world.send("orders", key="o-2", type="order.rejected")
    world.send("orders", key="o-2", type="order.rejected")
    of_projection, dead, waiting = world.dead_letters
    for letter, function in ((of_projection, planted.total), (dead, planted.reject)):
        lines, first = getsourcelines(function)
        raised = next(number for number, line in enumerate(lines, first) if "raise Rejected" in line)
        assert f'File "tests/unit/testing/planted.py", line {raised}, in ' in letter.traceback
        assert "raise Rejected" in repr(letter)
    assert waiting.traceback == "", "no handler raised"


def test_a_world_shows_its_outcomes_and_the_newest_dead_letter(world: World) -> None:
    assert repr(world) == "<World: no events>"
    world.send("orders", key="o-1", type="order.placed", version=1)
    world.send("orders", key="o-2", type="order.placed", version=1)
    assert repr(world) == "<World: 2 applied>"
    world.send("orders", key="o-2", type="order.rejected")
    world.send("orders", key="o-2", type="order.placed", version=2)
    assert repr(world) == "<World: 2 applied, 1 dead, 1 waiting; order.rejected of 'o-2': Rejected: never>"


def test_a_letter_of_a_projection_keeps_the_writes_of_plain_handlers(world: World) -> None:
    world.given(orders, "o-1", {"status": "NEW"})
    assert world.send("orders", key="o-1", type="order.seen", data={"seen": 101}, version=1) == "applied"
    assert world.send("orders", key="o-1", type="order.seen", data={"seen": 1}, version=2) == "applied"
    assert world.row(orders, "o-1") == ROW | {"status": "NEW", "seen": 102}
    assert world.rows(totals) == {}
    dead, waiting = world.dead_letters
    assert (dead.outcome, dead.projection, dead.error) == ("dead", "totals", "Rejected: too much")
    assert waiting == DeadLetter(
        "orders", "o-1", "order.seen", waiting.outcome, waiting.error, projection="totals"
    )
    assert waiting.outcome == "waiting"
    world.redrive()
    assert len(world.dead_letters) == 2, "the first letter fails again"


def test_a_redrive_applies_letters_of_a_projection_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.given(orders, "o-1", {"status": "NEW"})
    for number, seen in enumerate((101, 7)):
        world.send("orders", key="o-1", type="order.seen", data={"seen": seen}, version=number)
    world.restart(without_limit())
    world.redrive()
    assert world.dead_letters == []
    assert world.row(totals, "o-1") == {"amount": 7}
    assert world.row(orders, "o-1") == ROW | {"status": "NEW", "seen": 108}, "no plain handler ran again"


def test_a_rebuild_computes_a_projection_with_the_current_code(world: World) -> None:
    world.send("orders", key="o-1", type="order.placed", version=1)
    world.send("orders", key="o-2", type="order.placed", data={"status": "far too long"}, version=1)
    world.given(totals, "o-9", {"amount": 9})
    assert world.rebuild(totals) == {"o-9": ({"amount": 9}, None)}
    assert world.row(totals, "o-1") == {"amount": 1}
    world.restart(without_limit(of_placed=5))
    assert world.rebuild("totals") == {"o-1": ({"amount": 1}, {"amount": 5})}
    assert world.rebuild("totals") == {}
    assert world.calls == [Call("notify", once="o-1", args={"id": "o-1"})], "a rebuild makes no call"


def without_limit(of_placed: int = 1) -> ModuleType:
    @projects("order.placed", "order.seen", into=totals, revision=2)
    def total(event: Event[dict[str, Any]]) -> Iterator[ProjectionEffect]:
        yield Upsert(totals, event.key, {"amount": event.data.get("seen", of_placed)})

    return module(**{**vars(planted), "total": total})
