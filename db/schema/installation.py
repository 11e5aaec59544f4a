"""Which installation this database belongs to, its keys, and the processes that work for it."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sluice.db.records import Declaration, ProcessKind
from sluice.db.schema.declarations import metadata, now_column, one_of

# One row. Every role may read it: Flower and `celery inspect` need the name and the id.
installation = Table(
    "installation",
    metadata,
    Column(
        "is_only",
        Boolean,
        CheckConstraint("is_only", name="one_row"),
        primary_key=True,
        server_default="true",
    ),
    Column("name", Text, nullable=False),
    Column("id", Uuid, nullable=False),
    # NULL: the role that ran `sluice init` could not read it.
    Column("system_identifier", Text),
    Column("database_oid", BigInteger, nullable=False),
    # Raised by `sluice init --original`.
    Column("rank", Integer, nullable=False, server_default=text("0")),
    now_column("made_at"),
)

# Messages are signed with the newest. An older one ends when every process has read a newer one.
installation_keys = Table(
    "installation_keys",
    metadata,
    Column("number", Integer, Identity(always=True), primary_key=True),
    Column("key", LargeBinary, CheckConstraint("length(key) = 32", name="key_length"), nullable=False),
    now_column("made_at"),
)

# One row: signs claims. `sluice init --new-key` keeps it, since a copy of before must still be recognised.
claim_key = Table(
    "claim_key",
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

# What the bridges of this database wrote into Redis and Kafka. The newest 1,000 are kept.
claims = Table(
    "claims",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("claim", Uuid, nullable=False, unique=True),
    now_column("made_at"),
)

# The same claims again, unlogged: a physical copy, a promoted standby and a server that crashed begin with
# none of them. A claim in it was written by this very server.
witnessed_claims = Table(
    "witnessed_claims",
    metadata,
    Column("claim", Uuid, primary_key=True),
    now_column("made_at"),
    prefixes=["UNLOGGED"],
)

# What each bridge, worker and beat says of itself. It is alive while its heartbeat is young.
processes = Table(
    "processes",
    metadata,
    Column("process", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("process_id", Integer, nullable=False),
    # The newest format of messages and of stored rows that it reads.
    Column("format", SmallInteger, nullable=False),
    # The newest of `installation_keys` that it has read; 0 before.
    Column("key_number", Integer, nullable=False),
    # Queues it serves; NULL: it shares those of its entity types.
    Column("queues", ARRAY(Text)),
    # What its code declares: {entity type: shards}, {topic: entity type}, names of effects.
    Column("entities", JSONB, nullable=False),
    Column("topics", JSONB, nullable=False),
    Column("effects", ARRAY(Text), nullable=False),
    now_column("started_at"),
    now_column("heartbeat_at"),
    # Seconds that its clock was ahead of this server's at the heartbeat; NULL: an older process does not say.
    Column("clock_offset", Double),
    one_of("kind", ProcessKind),
    # Rewritten every few seconds per process: room for HOT updates.
    postgresql_with={"fillfactor": "50"},
)

# Topics and effects that no living worker declares, and for how long, counted only while workers live.
undeclared = Table(
    "undeclared",
    metadata,
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("waited_seconds", Double, nullable=False, server_default=text("0")),
    now_column("observed_at"),
    PrimaryKeyConstraint("kind", "name"),
    one_of("kind", Declaration),
)
