"""What operators decide: switches, and the account of it. And what workers tell them."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    Identity,
    Integer,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sluice.db.schema.declarations import metadata, moment_column, now_column

# A row is a switch that is on.
switches = Table(
    "switches",
    metadata,
    Column("name", Text, primary_key=True),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    now_column("set_at"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    moment_column("at"),
    Column("actor", Text, nullable=False),
    Column("verb", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("details", JSONB),
)

# What a worker that shares the queues says of itself. Whether it lives, and what it holds, say the locks.
workers = Table(
    "workers",
    metadata,
    Column("backend_pid", Integer, primary_key=True, autoincrement=False),
    Column("node", Text, nullable=False),
    Column("process_id", Integer, nullable=False),
    now_column("joined_at"),
    now_column("heartbeat_at"),
    # Queue → since when.
    Column("leases", JSONB, nullable=False),
    Column("busy_queue", Text),
    Column("busy_since", DateTime(timezone=True)),
    Column("last_queue", Text),
    Column("last_at", DateTime(timezone=True)),
    Column("last_records", Integer),
    Column("last_seconds", Double),
    # What its code declares: {entity type: [topics]}.
    Column("declared", JSONB, nullable=False, server_default=text("'{}'")),
    # The newest format of messages that it reads.
    Column("format", SmallInteger, nullable=False, server_default=text("1")),
    # Queues it gave back because it met a topic or a format there that it does not know.
    Column("yielded", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # Rewritten every second per worker: room for HOT updates.
    postgresql_with={"fillfactor": "50"},
)
