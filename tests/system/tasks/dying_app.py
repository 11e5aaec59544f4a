"""An application whose projection counts things."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import BigInteger, Column, MetaData, String

from sluice import Entity, Event, Increment, ProjectionEffect, Topic, projection_table, projects

counted = projection_table(
    "counted",
    MetaData(),
    Column("thing_id", String(64), primary_key=True),
    Column("seen", BigInteger, nullable=False, default=0),
    counters=("seen",),
)

topics = (Topic("dying-things", entity=Entity("dying", shards=1)),)


@projects("thing.seen", into=counted, revision=1)
def count_thing(event: Event[dict[str, Any]]) -> Iterator[ProjectionEffect]:
    """Yields an increment for the thing."""
    yield Increment(counted, event.key, {"seen": 1})
