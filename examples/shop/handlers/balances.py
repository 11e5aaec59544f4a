"""Scenario 1b: the newest balance stands, in whatever order balances arrive."""

from collections.abc import Iterator

import msgspec

from examples.shop.tables import account_balances
from sluice import Effect, Event, Rejected, Upsert, handles


class BalanceSet(msgspec.Struct, frozen=True):
    """Data of `balance.set`."""

    balance_cents: int


@handles("balance.set")
def set_balance(event: Event[BalanceSet]) -> Iterator[Effect]:
    """The balance as of the event's time, which is its version."""
    if event.time is None:
        raise Rejected("a balance needs the time it was as of")
    values = {"balance_cents": event.data.balance_cents, "as_of": event.time}
    yield Upsert(account_balances, event.key, values, version=event.time)
