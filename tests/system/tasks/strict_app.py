"""The application for bad inputs: a table with every kind of constraint, and typed event data."""

from collections.abc import Iterator
from decimal import Decimal

import msgspec
from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, MetaData, Numeric, String

from sluice import Effect, Entity, Event, Insert, Topic, Upsert, entity_table, handles

metadata = MetaData()
strict_things = entity_table(
    "strict_things",
    metadata,
    Column("thing_id", String(64), primary_key=True),
    Column("amount", BigInteger, CheckConstraint("amount >= 0", name="amount_not_negative"), nullable=False),
    Column("name", String(8), unique=True),
    Column("price", Numeric(12, 2)),
    Column("parent", String(64), ForeignKey("strict_things.thing_id", name="parent_exists")),
    Column(
        "later",
        String(64),
        ForeignKey("strict_things.thing_id", name="later_exists", deferrable=True, initially="DEFERRED"),
    ),
)

topics = (Topic("strict-things", entity=Entity("strict", shards=2)),)


class Thing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data of `thing.set`."""

    amount: int
    name: str | None = None
    price: Decimal | None = None
    parent: str | None = None
    later: str | None = None


@handles("thing.set")
def set_thing(event: Event[Thing]) -> Iterator[Effect]:
    """Yields a row. It is written if the version of the event is higher."""
    yield Upsert(strict_things, event.key, msgspec.structs.asdict(event.data))


@handles("thing.made")
def make_thing(event: Event[Thing]) -> Iterator[Effect]:
    """Yields an Insert, which needs no version."""
    yield Insert(strict_things, event.key, msgspec.structs.asdict(event.data))
