"""The installation of this database, its keys, and the processes that work for it."""

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
    # NULL if the role that ran `sluice init` was not allowed to read it.
    Column("system_identifier", Text),
    Column("database_oid", BigInteger, nullable=False),
    # Raised by `sluice init --original`.
    Column("rank", Integer, nullable=False, server_default=text("0")),
    now_column("made_at"),
    # K/N of SLUICE_PARTITION_SHARE. It never changes: entities would move to another database.
    Column(
        "partition_share",
        Text,
        CheckConstraint("partition_share ~ '^[1-9][0-9]*/[1-9][0-9]*$'", name="partition_share_form"),
        nullable=False,
        server_default=text("'1/1'"),
    ),
)

# The newest key signs messages. Older keys are deleted after every process has read the newest key.
installation_keys = Table(
    "installation_keys",
    metadata,
    Column("number", Integer, Identity(always=True), primary_key=True),
    Column("key", LargeBinary, CheckConstraint("length(key) = 32", name="key_length"), nullable=False),
    now_column("made_at"),
)

# One row: the key that signs claims. `sluice init --new-key` does not change it, because claims of earlier
# copies must be recognised.
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

# The claims that bridges of this database have written into Redis and Kafka. The newest 1,000 are kept.
claims = Table(
    "claims",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("claim", Uuid, nullable=False, unique=True),
    now_column("made_at"),
)

# The same claims in an unlogged table. Such a table is empty on a physical copy, on a promoted standby and
# after a crash. Therefore this server itself has stored each claim in this table.
witnessed_claims = Table(
    "witnessed_claims",
    metadata,
    Column("claim", Uuid, primary_key=True),
    now_column("made_at"),
    prefixes=["UNLOGGED"],
)

# The report of each bridge, worker and beat. A process counts as running while its heartbeat is recent.
processes = Table(
    "processes",
    metadata,
    Column("process", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("process_id", Integer, nullable=False),
    # The newest format of messages and of stored rows that the process reads.
    Column("format", SmallInteger, nullable=False),
    # The newest number of `installation_keys` that the process has read; 0 before it has read a key.
    Column("key_number", Integer, nullable=False),
    # Queues that the process serves; NULL if it shares the queues of its entity types.
    Column("queues", ARRAY(Text)),
    # Declarations of the process's code: {entity type: shards}, {topic: entity type}, names of effects.
    Column("entities", JSONB, nullable=False),
    Column("topics", JSONB, nullable=False),
    Column("effects", ARRAY(Text), nullable=False),
    now_column("started_at"),
    now_column("heartbeat_at"),
    # The clock of the process minus the clock of this server at the heartbeat, in seconds; NULL for a process
    # of an older version.
    Column("clock_offset", Double),
    one_of("kind", ProcessKind),
    # Each process's row is rewritten every few seconds. The fill factor leaves room for HOT updates.
    postgresql_with={"fillfactor": "50"},
)

# Topics and effects that no running worker declares, with the waiting time. Only time in which a worker runs
# counts.
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
