"""Scenario 5: a projection of payments for accounting. Revision 2 corrects a wrong tax."""

from collections.abc import Iterator

from examples.shop.handlers.payments import PaymentReceived
from examples.shop.tables import billing_line_items
from sluice import Event, Insert, ProjectionEffect, projects

TAX_PERCENT = 19


def line_item(payment: PaymentReceived, tax_percent: int) -> dict[str, int | str]:
    """Returns the columns of a payment's line. The amount includes the tax, which is rounded half up."""
    gross_cents = payment.amount_cents
    tax_cents = (2 * gross_cents * tax_percent + 100 + tax_percent) // (2 * (100 + tax_percent))
    return {
        "account_id": payment.account_id,
        "net_cents": gross_cents - tax_cents,
        "tax_cents": tax_cents,
        "gross_cents": gross_cents,
    }


@projects("payment.received", into=billing_line_items, revision=2)
def bill_payment(event: Event[PaymentReceived]) -> Iterator[ProjectionEffect]:
    """Writes one line per payment."""
    yield Insert(billing_line_items, event.key, dict(line_item(event.data, TAX_PERCENT)))
