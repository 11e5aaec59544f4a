"""Scenario 5: the shop's handlers before the fix of a wrong tax, for SLUICE_HANDLERS."""

from collections.abc import Iterator

from examples.shop.handlers import (
    capture_approved,
    capture_payment,
    change_user,
    delete_user,
    outgoing_topics,
    place_order,
    receive_payment,
    receive_stock,
    replace_user,
    sell_stock,
    send_email,
    set_balance,
    topics,
)
from examples.shop.handlers.billing import line_item
from examples.shop.handlers.payments import PaymentReceived
from examples.shop.tables import billing_line_items
from sluice import Event, Insert, ProjectionEffect, projects

__all__ = [
    "bill_payment_wrongly",
    "capture_approved",
    "capture_payment",
    "change_user",
    "delete_user",
    "outgoing_topics",
    "place_order",
    "receive_payment",
    "receive_stock",
    "replace_user",
    "sell_stock",
    "send_email",
    "set_balance",
    "topics",
]

WRONG_TAX_PERCENT = 7


@projects("payment.received", into=billing_line_items, revision=1)
def bill_payment_wrongly(event: Event[PaymentReceived]) -> Iterator[ProjectionEffect]:
    """Writes one line per payment, with 7 % tax instead of 19 %."""
    yield Insert(billing_line_items, event.key, dict(line_item(event.data, WRONG_TAX_PERCENT)))
