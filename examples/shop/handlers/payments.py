"""Scenario 1a: a payment becomes one row, even if its event is delivered repeatedly."""

from collections.abc import Iterator

import msgspec

from examples.shop.tables import transactions
from sluice import Effect, Event, Insert, handles


class PaymentReceived(msgspec.Struct, frozen=True):
    """Data of `payment.received`."""

    account_id: str
    amount_cents: int


@handles("payment.received")
def receive_payment(event: Event[PaymentReceived]) -> Iterator[Effect]:
    """Inserts the row of the payment."""
    payment = event.data
    yield Insert(
        transactions, event.key, {"account_id": payment.account_id, "amount_cents": payment.amount_cents}
    )
