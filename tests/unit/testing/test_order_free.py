"""The check for dependence on the order of events accepts handlers that commute, and finds typical faults."""

import math
import re
from typing import Any

import pytest

from sluice.testing import Incoming, World, assert_order_free
from sluice.testing.order_free import SAMPLED_ORDERS, orders, smallest_difference
from tests.unit.testing import planted


def incoming(kind: str, version: int | None = None, key: str = "o-1", **data: Any) -> Incoming:
    return Incoming("orders", key=key, type=kind, data=data, version=version)


def versions(kind: str, count: int = 3) -> list[Incoming]:
    return [incoming(kind, version, status=f"S{version}") for version in range(1, count + 1)]


@pytest.mark.parametrize(
    "events",
    [
        [],
        versions("order.set", 5),
        versions("order.set", 9),
        [incoming("order.seen", version, key=f"o-{version}", seen=1) for version in (1, 2)],
        [
            Incoming("profiles", key="p", type="profile.changed", data={"name": "A"}, version=1),
            Incoming("profiles", key="p", type="profile.changed", data={"city": "B"}, version=2),
            Incoming("profiles", key="p", type="profile.changed", data={"name": "C", "city": "D"}, version=3),
        ],
        [*versions("order.set"), Incoming("orders", key="o-1", version=7)],
    ],
    ids=["no events", "upserts", "a sample of orders", "increments", "merges", "a tombstone"],
)
def test_handlers_that_commute_pass(events: list[Incoming]) -> None:
    world = World(planted)
    world.given("orders", "o-1", {"status": "OLD"}, version=0)
    world.given("orders", "o-2", {"status": "OLD"}, version=0)
    before = world.state
    assert_order_free(world, events)
    assert world.state == before, "the check does not change the World"


@pytest.mark.parametrize(
    ("events", "found"),
    [
        (versions("order.unversioned"), r"row 'o-1' of orders: .*'S2'.* and .*'S1'"),
        (
            [incoming("order.counted", v, price=v) for v in (1, 2, 3)],
            r"row 'o-1' of orders: .*'3.00'.* and .*'2.00'",
        ),
        (versions("order.told"), r"emitted in the first order alone: Emit\(.*'version': 1"),
        (
            [incoming("order.billed", v, amount=v) for v in (1, 2)],
            r"called in the second order alone: Call\(",
        ),
        ([incoming("order.set", 1), incoming("order.rejected")], r"order.set of 'o-1' is waiting: Waiting"),
    ],
    ids=[
        "an Upsert without version",
        "a read and a write instead of an Increment",
        "an Emit after a write",
        "a Call",
        "a dead letter",
    ],
)
def test_each_typical_fault_is_found_and_printed_as_a_failing_test(
    events: list[Incoming], found: str
) -> None:
    with pytest.raises(AssertionError, match=found) as error:
        assert_order_free(World("tests.unit.testing.planted"), events)
    message = str(error.value)
    assert len(re.findall(r"^  \d+\. Incoming", message, re.MULTILINE)) == 2, (
        "the printed test has two events"
    )
    run_pasted(message)


def test_the_printed_test_includes_the_earlier_events_that_the_fault_needs() -> None:
    # Without the earlier event, both orders have the same result, because the row does not exist.
    world = World("tests.unit.testing.planted")
    world.send("orders", key="o-2", type="order.placed", version=1)
    events = [
        incoming("order.set", 5, key="o-2"),
        incoming("order.set", 1),
        incoming("order.seen", 2, seen=1),
        incoming("order.set", 6, key="o-3"),
    ]
    with pytest.raises(AssertionError) as error:
        assert_order_free(world, events)
    message = str(error.value)
    assert len(re.findall(r"^  \d+\. Incoming", message, re.MULTILINE)) == 2
    run_pasted(message)


def test_the_error_shows_the_outcomes_and_where_a_handler_ended() -> None:
    world = World(planted)
    world.send("orders", key="o-1", type="order.set", data={"status": "A"}, version=9)
    world.send("orders", key="o-1", type="order.set", data={"status": "B"}, version=8)
    with pytest.raises(AssertionError) as error:
        assert_order_free(world, [incoming("order.told", version) for version in (10, 11)])
    lines = str(error.value).splitlines()
    line = planted.tell_after_write.__code__.co_firstlineno
    assert [line for line in lines if line.startswith("  in order")] == [
        "  in order 1, 2 the outcomes are applied, applied",
        "  in order 2, 1 the outcomes are applied, stale",
        "  in order 2, 1 order.told of 'o-1': tell_after_write"
        f" (tests/unit/testing/planted.py:{line}) ended at effect 1, Upsert of orders 'o-1': stale",
    ]


def run_pasted(message: str) -> None:
    names: dict[str, Any] = {}
    exec(message.partition("As a test:\n")[2], names)
    with pytest.raises(AssertionError):
        names["test_the_order_of_arrival_does_not_matter"]()


def test_all_orders_of_six_events_are_tried_and_a_sample_of_orders_of_more() -> None:
    firsts = {tuple(dict.fromkeys(order)) for order in orders(6, seed=1)}
    assert len(firsts) == math.factorial(6)
    sampled = list(orders(7, seed=1))
    assert len(sampled) == SAMPLED_ORDERS + 1
    assert tuple(dict.fromkeys(sampled[0])) == (6, 5, 4, 3, 2, 1, 0)
    assert all(set(order) == set(range(7)) for order in sampled)
    assert any(len(order) > 7 for order in sampled), "some orders contain repeats"
    assert sampled == list(orders(7, seed=1)) != list(orders(7, seed=2))


def test_a_difference_between_two_orders_is_reduced_to_the_events_that_cause_it() -> None:
    # The result differs only if 3 is before 1, and both are after 0.
    def result_of(order: tuple[int, ...]) -> Any:
        return 0 in order and {1, 3} <= set(order[order.index(0) :]) and order.index(3) < order.index(1)

    assert smallest_difference(result_of, (0, 1, 2, 3, 4), (0, 4, 3, 2, 1)) == ((0, 1, 3), (0, 3, 1))


def test_a_difference_by_a_repeat_is_reduced_to_the_repeated_event() -> None:
    def result_of(order: tuple[int, ...]) -> Any:
        return order.count(2)

    assert smallest_difference(result_of, (0, 1, 2), (1, 2, 0, 2)) == ((2,), (2, 2))
