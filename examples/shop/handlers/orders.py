"""Scenarios 3 and 7: the row, the outgoing event and the e-mail are committed together."""

from collections.abc import Iterator

import msgspec

from examples.shop.tables import orders
from sluice import Call, Effect, Emit, Event, Insert, handles


class OrderPlaced(msgspec.Struct, frozen=True):
    """Data of `order.placed`."""

    customer_id: str
    email: str
    total_cents: int


@handles("order.placed")
def place_order(event: Event[OrderPlaced]) -> Iterator[Effect]:
    """Writes the order, emits `order.created`, and calls `send_email` for the confirmation."""
    order = event.data
    yield Insert(
        orders,
        event.key,
        {"customer_id": order.customer_id, "total_cents": order.total_cents, "status": "PLACED"},
    )
    created = {"order_id": event.key, "total_cents": order.total_cents}
    yield Emit("order-events", key=event.key, type="order.created", data=created)
    yield Call(
        "send_email",
        once=f"order-confirmation:{event.key}",
        args={"to": order.email, "template": "order-confirmation"},
    )
