"""Scenario 6: an approved payment is captured once, even if its event is delivered or replayed repeatedly."""

from collections.abc import Iterator

import msgspec

from examples.shop.tables import captures
from sluice import Call, Effect, Event, Insert, handles


class PaymentApproved(msgspec.Struct, frozen=True):
    """Data of `payment.approved`."""

    amount_cents: int


@handles("payment.approved")
def capture_approved(event: Event[PaymentApproved]) -> Iterator[Effect]:
    """Writes the decision to capture, and the call, once per payment. A later approval of the same
    payment has no effect.
    """
    amount_cents = event.data.amount_cents
    yield Insert(captures, event.key, {"amount_cents": amount_cents})
    yield Call("capture_payment", once=event.key, args={"reference": event.key, "amount_cents": amount_cents})
