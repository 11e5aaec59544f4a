"""The application of a second installation in a database. Its queues have names of the shop's queues."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from sqlalchemy import BigInteger, Column, MetaData, Text

from sluice import Effect, Emit, Entity, Event, Topic, Upsert, entity_table, handles

metadata = MetaData()
second_orders = entity_table(
    "second_orders",
    metadata,
    Column("order_id", Text, primary_key=True),
    Column("amount", BigInteger, nullable=False),
)

TOPIC = "second-orders"
KEYS = 50
topics = (Topic(TOPIC, entity=Entity("order", shards=4)),)
outgoing_topics = ("order-events",)


class Amount(msgspec.Struct, frozen=True):
    """The data of `order.counted`."""

    amount: int


@handles("order.counted")
def count_order(event: Event[Amount]) -> Iterator[Effect]:
    """Yields a row with the version of the event, and an outgoing event."""
    yield Upsert(second_orders, event.key, {"amount": event.data.amount})
    yield Emit("order-events", key=event.key, type="order.was-counted", data={"amount": event.data.amount})


class SomeEvent(NamedTuple):
    """A record to produce."""

    topic: str
    key: str | None
    value: object


def some_events(count: int, turn: int) -> Iterator[SomeEvent]:
    """Yields events of some keys. Their versions increase."""
    for number in range(count):
        version = turn * count + number
        value = {
            "event_id": f"second-{version}",
            "type": "order.counted",
            "version": version,
            "data": {"amount": number},
        }
        yield SomeEvent(TOPIC, f"order-{number % KEYS}", value)
