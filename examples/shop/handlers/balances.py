"""Scenario 1b: the newest balance wins, in any order of arrival."""

from collections.abc import Iterator

import msgspec

from examples.shop.tables import account_balances
from sluice import Effect, Event, Rejected, Upsert, handles


class BalanceSet(msgspec.Struct, frozen=True):
    """Data of `balance.set`."""

    balance_cents: int


@handles("balance.set")
def set_balance(event: Event[BalanceSet]) -> Iterator[Effect]:
    """Writes the balance. The version of the write is the event's time."""
    if event.time is None:
        raise Rejected("a balance requires the time of its event")
    values = {"balance_cents": event.data.balance_cents, "as_of": event.time}
    yield Upsert(account_balances, event.key, values, version=event.time)
