"""Tables for operators: switches, the audit of decisions, and the reports of workers."""

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

# A switch is on if it has a row.
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

# The report of a worker that shares queues. The advisory locks, and not this row, show if a worker runs and
# which queues it holds.
workers = Table(
    "workers",
    metadata,
    Column("backend_pid", Integer, primary_key=True, autoincrement=False),
    Column("node", Text, nullable=False),
    Column("process_id", Integer, nullable=False),
    now_column("joined_at"),
    now_column("heartbeat_at"),
    # Queue → the start of its lease.
    Column("leases", JSONB, nullable=False),
    Column("busy_queue", Text),
    Column("busy_since", DateTime(timezone=True)),
    Column("last_queue", Text),
    Column("last_at", DateTime(timezone=True)),
    Column("last_records", Integer),
    Column("last_seconds", Double),
    # Declarations of the worker's code: {entity type: [topics]}.
    Column("declared", JSONB, nullable=False, server_default=text("'{}'")),
    # The newest format of messages that the worker reads.
    Column("format", SmallInteger, nullable=False, server_default=text("1")),
    # Queues that the worker has given back, because its code lacks a topic or a format.
    Column("yielded", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # Each worker's row is rewritten every second. The fill factor leaves room for HOT updates.
    postgresql_with={"fillfactor": "50"},
)
