"""Erased entities (hashes of their keys, and log ends), and the tables that contain an entity's rows."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB

from sluice.db.schema.declarations import metadata, moment_column

# One row, which the first erasure inserts. It is never changed, because with another key no erased entity
# would be found.
erasure_key = Table(
    "erasure_key",
    metadata,
    Column(
        "is_only",
        Boolean,
        CheckConstraint("is_only", name="one_row"),
        primary_key=True,
        server_default="true",
    ),
    Column("key", LargeBinary, CheckConstraint("length(key) = 32", name="key_length"), nullable=False),
)

# Rows are added under the lock of the row of `erasure_key`, so their ids are committed in order.
erasures = Table(
    "erasures",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("entity", Text, nullable=False),
    # A keyed hash of entity type and key.
    Column("key_hash", Uuid, nullable=False),
    moment_column("erased_at"),
    # {topic id: {partition: first offset that is not erased}}
    Column("log_ends", JSONB, nullable=False),
)
Index("erasures_key_idx", erasures.c.entity, erasures.c.key_hash)

# Tables that handlers wrote for events of an entity type. `keyed_otherwise`: handlers also wrote rows
# with other keys than the event's.
entity_tables = Table(
    "entity_tables",
    metadata,
    Column("entity", Text, nullable=False),
    Column("table_name", Text, nullable=False),
    Column("keyed_otherwise", Boolean, nullable=False),
    PrimaryKeyConstraint("entity", "table_name"),
)
