"""An application with one entity type and eight queues, which workers share."""

from collections.abc import Iterator

import msgspec
from sqlalchemy import BigInteger, Column, MetaData, Text

from sluice import Effect, Entity, Event, Topic, Upsert, entity_table, handles

metadata = MetaData()
shared_things = entity_table(
    "shared_things",
    metadata,
    Column("thing_id", Text, primary_key=True),
    Column("amount", BigInteger, nullable=False),
    Column("seen", BigInteger, nullable=False),
)

topics = (Topic("shared-things", entity=Entity("thing", shards=8)),)


class Thing(msgspec.Struct, frozen=True):
    """The data of `thing.counted`."""

    amount: int


@handles("thing.counted")
def count_thing(event: Event[Thing]) -> Iterator[Effect]:
    """Yields a row with the version of the event."""
    yield Upsert(shared_things, event.key, {"amount": event.data.amount, "seen": event.offset})
