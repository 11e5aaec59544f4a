"""The handlers of a user, which the test adds to the image."""

from collections.abc import Iterator

import msgspec
from sqlalchemy import Column, MetaData, Text

from sluice import Effect, Entity, Event, Topic, Upsert, entity_table, handles

parcels = entity_table(
    "parcels", MetaData(), Column("parcel_id", Text, primary_key=True), Column("place", Text, nullable=False)
)
topics = (Topic("parcels", entity=Entity("parcel", shards=4)),)


class ParcelSeen(msgspec.Struct, frozen=True):
    """Data of `parcel.seen`."""

    place: str


@handles("parcel.seen")
def move_parcel(event: Event[ParcelSeen]) -> Iterator[Effect]:
    """Stores the last place of the parcel."""
    yield Upsert(parcels, event.key, {"place": event.data.place})
