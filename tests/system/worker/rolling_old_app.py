"""The code before a deployment. `rolling_new_app` is the code after it."""

from collections.abc import Iterator

import msgspec
from sqlalchemy import BigInteger, Column, MetaData, Text

from sluice import Effect, Entity, Event, Topic, Upsert, entity_table, handles

metadata = MetaData()
rolling_things = entity_table(
    "rolling_things",
    metadata,
    Column("thing_id", Text, primary_key=True),
    Column("amount", BigInteger, nullable=False),
)

topics = (Topic("rolling-things", entity=Entity("thing", shards=2)),)


class Thing(msgspec.Struct, frozen=True):
    """The data of all events."""

    amount: int


@handles("thing.counted")
def count_thing(event: Event[Thing]) -> Iterator[Effect]:
    """Yields a row with the version of the event."""
    yield Upsert(rolling_things, event.key, {"amount": event.data.amount})
