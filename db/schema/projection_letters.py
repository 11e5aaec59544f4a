"""Events that one generation could not apply, and the failures that decide when the generation is stopped."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from sluice.db.records import LetterState, Outcome
from sluice.db.schema.declarations import format_column, metadata, now_column, one_of
from sluice.db.schema.projections import generation_key

# The same columns as `dead_letters`, for one generation.
projection_letters = Table(
    "projection_letters",
    metadata,
    # Drawn from the sequence of `dead_letters`, so that a number belongs to only one letter of the two
    # tables.
    Column("id", BigInteger, nullable=False),
    Column("projection", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("topic", Text, nullable=False),
    Column("topic_id", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("timestamp_ms", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", JSONB, nullable=False),
    Column("entity", Text, nullable=False),
    Column("entity_key", Text),
    Column("identity", Uuid, nullable=False),
    Column("event_id", Text),
    Column("type", Text),
    Column("source", Text),
    Column("outcome", Text, nullable=False),
    Column("error_class", Text, nullable=False),
    Column("error_text", Text, nullable=False),
    Column("traceback", Text),
    Column("attempts", Integer, nullable=False, server_default=text("1")),
    Column("state", Text, nullable=False, server_default=LetterState.DEAD.value),
    # True if later events of the entity wait behind this letter, in this generation only.
    Column("holds", Boolean, nullable=False),
    now_column("created_at"),
    Column("settled_at", DateTime(timezone=True)),
    format_column(),
    # The missing parts of the record; NULL if the whole record is stored.
    Column("flaw", JSONB),
    PrimaryKeyConstraint("projection", "generation", "topic_id", "partition", "offset"),
    UniqueConstraint("id", name="projection_letters_id_key"),
    generation_key("projection_letters_generation_fkey"),
    one_of("outcome", (Outcome.DEAD, Outcome.CONFLICT, Outcome.WAITING)),
    one_of("state", (state for state in LetterState if state is not LetterState.RETRYING)),
)
# For workers, which read the held keys of one entity type, and for operators' commands, which read the open
# letters of one entity.
Index(
    "projection_letters_open_idx",
    projection_letters.c.projection,
    projection_letters.c.generation,
    projection_letters.c.entity,
    projection_letters.c.entity_key,
    projection_letters.c.id,
    postgresql_where=text("state IN ('dead', 'waiting')"),
)

# Only processes of the previous version use this table. Others use `generation_windows`.
generation_failures = Table(
    "generation_failures",
    metadata,
    Column("projection", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("queue", Text, nullable=False),
    Column("failure_window", Text, nullable=False),
    PrimaryKeyConstraint("projection", "generation", "queue"),
    generation_key("generation_failures_generation_fkey"),
)

# As `failure_windows`, but for the events that were tried for this generation. The window is empty if none of
# the last events failed. Chunks of several partitions may write it at the same time; the newest row counts.
generation_windows = Table(
    "generation_windows",
    metadata,
    Column("projection", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("queue", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("failure_window", Text, nullable=False),
    PrimaryKeyConstraint("projection", "generation", "queue", "step"),
    generation_key("generation_windows_generation_fkey"),
)
