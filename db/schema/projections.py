"""Projections, their generations, and the offsets of each generation."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sluice.db.records import GenerationState
from sluice.db.schema.declarations import metadata, now_column, one_of

projections = Table(
    "projections",
    metadata,
    Column("projection", Text, primary_key=True),
    # The generation that readers see. The worker's transaction writes it.
    Column("live_generation", Integer, nullable=False),
    # The number of the newest generation ever made. Numbers are never used again.
    Column("newest_generation", Integer, nullable=False),
)

generations = Table(
    "generations",
    metadata,
    Column("projection", Text, ForeignKey(projections.c.projection), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    # If true, code of any revision keeps the generation in sync.
    Column("has_been_live", Boolean, nullable=False, server_default=text("false")),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("rate", Integer),
    # The time when the next chunk may begin, if there is a rate.
    Column("paced_until", DateTime(timezone=True)),
    Column("compacted_topics", JSONB, nullable=False, server_default=text("'[]'")),
    # The reason, for a failed or stopped generation.
    Column("failed_reason", Text),
    now_column("created_at"),
    Column("ready_at", DateTime(timezone=True)),
    Column("live_at", DateTime(timezone=True)),
    # Identities of records after this time are kept until the generation has caught up. NULL for a stopped
    # generation whose offsets are lost.
    Column("stopped_at", DateTime(timezone=True)),
    # The checkpoint where the generation began; NULL for the beginning of the log.
    Column("checkpoint", Text),
    PrimaryKeyConstraint("projection", "generation"),
    one_of("state", GenerationState),
)

_of_generation = ("projection", "generation")


def generation_key(name: str) -> ForeignKeyConstraint:
    """Returns the constraint that deletes a row with its generation."""
    return ForeignKeyConstraint(
        _of_generation, [generations.c.projection, generations.c.generation], name=name, ondelete="CASCADE"
    )


# Only for generations that are not live. The offsets of live generations are in `lane_progress`.
generation_lanes = Table(
    "generation_lanes",
    metadata,
    Column("projection", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("queue", Text, nullable=False),
    Column("applied_offset", BigInteger, nullable=False),
    # Numbers of folded records, and of records passed over because workers did not apply them either.
    Column("folded", BigInteger, nullable=False, server_default=text("0")),
    Column("passed_duplicate", BigInteger, nullable=False, server_default=text("0")),
    Column("passed_dead", BigInteger, nullable=False, server_default=text("0")),
    Column("passed_waiting", BigInteger, nullable=False, server_default=text("0")),
    Column("passed_conflict", BigInteger, nullable=False, server_default=text("0")),
    Column("passed_unknown", BigInteger, nullable=False, server_default=text("0")),
    # The last transaction that wrote the lane only into this generation, not into the live one. Older
    # snapshots lack its rows.
    Column("filled_xid", BigInteger),
    Column("passed_erased", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("projection", "generation", "topic", "partition", "queue"),
    generation_key("generation_lanes_generation_fkey"),
    # Rewritten by every chunk: room for HOT updates.
    postgresql_with={"fillfactor": "30"},
)

# A range (after, through] of a lane that a rebuild read. At the offsets in `found` the log had events that a
# worker first applied there. Events outside of all spans were written by workers or came with a copy.
generation_spans = Table(
    "generation_spans",
    metadata,
    Column("projection", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("queue", Text, nullable=False),
    Column("after_offset", BigInteger, nullable=False),
    Column("through_offset", BigInteger, nullable=False),
    Column("found", ARRAY(BigInteger), nullable=False),
    PrimaryKeyConstraint("projection", "generation", "topic", "partition", "queue", "through_offset"),
    generation_key("generation_spans_generation_fkey"),
)

# Events that a generation holds but did not read at the offset where a worker first applied them.
generation_identities = Table(
    "generation_identities",
    metadata,
    Column("projection", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("identity", Uuid, nullable=False),
    PrimaryKeyConstraint("projection", "generation", "identity"),
    generation_key("generation_identities_generation_fkey"),
)

# Events that workers applied and that this generation could not apply.
generation_deaths = Table(
    "generation_deaths",
    metadata,
    Column("projection", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("key", Text),
    Column("error_class", Text, nullable=False),
    Column("error_text", Text, nullable=False),
    now_column("died_at"),
    PrimaryKeyConstraint("projection", "generation", "topic", "partition", "offset"),
    generation_key("generation_deaths_generation_fkey"),
)

generation_reports = Table(
    "generation_reports",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("projection", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    # The live generation with which it was compared.
    Column("against", Integer, nullable=False),
    now_column("made_at"),
    Column("differing", BigInteger, nullable=False),
    Column("report", JSONB, nullable=False),
    Column("approved_by", Text),
    Column("approved_at", DateTime(timezone=True)),
    generation_key("generation_reports_generation_fkey"),
)

# A copy of a generation at one moment. Its rows are in a separate table.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("checkpoint", Text, primary_key=True),
    Column("projection", Text, ForeignKey(projections.c.projection), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    now_column("made_at"),
    # [topic, partition, queue, epoch, applied offset] of every lane.
    Column("lanes", JSONB, nullable=False),
    # [topic id, partition, offset] of events that were dead or waiting, so that the copy lacks them.
    Column("open_letters", JSONB, nullable=False),
)
