"""Measures the wall time of tests of handlers in memory."""

import time
from dataclasses import dataclass

from sluice.testing import Incoming, World, assert_order_free

SENDS = 1_000
ORDERED_EVENTS = 6  # the largest number of events for which all orders are tried


@dataclass(frozen=True)
class WorldSpeed:
    """Wall time in milliseconds."""

    sends: int
    sends_ms: float
    orders_ms: float
    """The time of all orders of `ORDERED_EVENTS` events, with repeats."""


def measure_world() -> WorldSpeed:
    """Measures the time to send the shop's payments, and to try every order of the changes of one user."""
    world = World("examples.shop.handlers")
    began = time.perf_counter()
    for number in range(SENDS):
        data = {"account_id": "acc-1", "amount_cents": number + 1}
        world.send("payments", key=f"pay-{number}", type="payment.received", data=data)
    sent = time.perf_counter()
    changes = [
        Incoming("users", key="u-1", type="user.changed", data={"name": f"n{version}"}, version=version)
        for version in range(ORDERED_EVENTS)
    ]
    assert_order_free(World("examples.shop.handlers"), changes)
    return WorldSpeed(SENDS, (sent - began) * 1_000, (time.perf_counter() - sent) * 1_000)
