"""An entity type with two topics. Both topics write to the row of the event's key."""

from collections.abc import Iterator

import msgspec
from sqlalchemy import BigInteger, Column, MetaData, String

from sluice import Effect, Entity, Event, Increment, Topic, entity_table, handles

account = Entity("account", shards=2)
topics: tuple[Topic, ...] = (Topic("deposits", entity=account), Topic("withdrawals", entity=account))

metadata = MetaData()
accounts = entity_table(
    "accounts",
    metadata,
    Column("account_id", String(64), primary_key=True),
    Column("cents", BigInteger, nullable=False, default=0),
    Column("deposits", BigInteger, nullable=False, default=0),
    Column("withdrawals", BigInteger, nullable=False, default=0),
    counters=("cents", "deposits", "withdrawals"),
)


class Amount(msgspec.Struct, frozen=True):
    """Data of both events."""

    cents: int


@handles("deposit.made")
def deposit(event: Event[Amount]) -> Iterator[Effect]:
    yield Increment(accounts, event.key, {"cents": event.data.cents, "deposits": 1})


@handles("withdrawal.made")
def withdraw(event: Event[Amount]) -> Iterator[Effect]:
    yield Increment(accounts, event.key, {"cents": -event.data.cents, "withdrawals": 1})
