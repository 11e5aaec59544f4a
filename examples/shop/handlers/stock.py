"""Scenario 2: concurrent sales lose no update and never sell more than the stock."""

from collections.abc import Iterator

import msgspec

from examples.shop.tables import stock
from sluice import Effect, Emit, Event, Increment, handles


class Quantity(msgspec.Struct, frozen=True):
    """Data of `stock.received` and `stock.sold`."""

    quantity: int


@handles("stock.received")
def receive_stock(event: Event[Quantity]) -> Iterator[Effect]:
    """Increases the stock."""
    yield Increment(stock, event.key, {"on_hand": event.data.quantity})


@handles("stock.sold")
def sell_stock(event: Event[Quantity]) -> Iterator[Effect]:
    """Decreases the stock. If the stock is too low, emits an event instead."""
    short = {"product_id": event.key, "quantity": event.data.quantity}
    yield Increment(
        stock,
        event.key,
        {"on_hand": -event.data.quantity},
        floor=0,
        otherwise=(Emit("stock-events", key=event.key, type="stock.short", data=short),),
    )
