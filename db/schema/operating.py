"""What operators decide: switches, and the account of it."""

from sqlalchemy import (
    BigInteger,
    Column,
    Identity,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from db.schema.declaring import metadata, now_column

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
    now_column("at"),
    Column("actor", Text, nullable=False),
    Column("verb", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("details", JSONB),
)
