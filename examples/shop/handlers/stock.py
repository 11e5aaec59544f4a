"""Scenario 2: concurrent sales never lose an update and never sell what is not there."""

from collections.abc import Iterator

import msgspec

from examples.shop.tables import stock
from sluice import Effect, Emit, Event, Increment, handles


class Quantity(msgspec.Struct, frozen=True):
    """Data of `stock.received` and `stock.sold`."""

    quantity: int


@handles("stock.received")
def receive_stock(event: Event[Quantity]) -> Iterator[Effect]:
    """More on hand."""
    yield Increment(stock, event.key, {"on_hand": event.data.quantity})


@handles("stock.sold")
def sell_stock(event: Event[Quantity]) -> Iterator[Effect]:
    """Less on hand, never below zero: what cannot be sold is told instead."""
    short = {"product_id": event.key, "quantity": event.data.quantity}
    yield Increment(
        stock,
        event.key,
        {"on_hand": -event.data.quantity},
        floor=0,
        otherwise=(Emit("stock-events", key=event.key, type="stock.short", data=short),),
    )
