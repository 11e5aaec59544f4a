"""Projections, their generations, and the offsets of each generation."""

from typing import Any

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
from sqlalchemy.sql.elements import quoted_name

from sluice.db.records import GenerationState
from sluice.db.schema.declarations import SCHEMA, metadata, now_column, one_of

projections = Table(
    "projections",
    metadata,
    Column("projection", Text, primary_key=True),
    # The generation that readers see. A worker writes it in the transaction of each batch.
    Column("live_generation", Integer, nullable=False),
    # The number of the newest generation that was ever made. A number is never used again.
    Column("newest_generation", Integer, nullable=False),
)

generations = Table(
    "generations",
    metadata,
    Column("projection", Text, ForeignKey(projections.c.projection), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    # True if the generation is or was live. Then code of any revision may write it.
    Column("has_been_live", Boolean, nullable=False, server_default=text("false")),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("rate", Integer),
    # Only processes of the previous version use this column. Others use `generation_paces`.
    Column("paced_until", DateTime(timezone=True)),
    Column("compacted_topics", JSONB, nullable=False, server_default=text("'[]'")),
    # The reason, for a failed or stopped generation.
    Column("failed_reason", Text),
    now_column("created_at"),
    Column("ready_at", DateTime(timezone=True)),
    Column("live_at", DateTime(timezone=True)),
    # Identities that are newer than this time are kept until the generation has caught up. NULL for a stopped
    # generation whose offsets are lost.
    Column("stopped_at", DateTime(timezone=True)),
    # The checkpoint with which the generation began; NULL if it began with the start of the log.
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


def _lane_columns() -> tuple[Column[Any], ...]:
    return (
        Column("projection", Text, nullable=False),
        Column("generation", Integer, nullable=False),
        Column("topic", Text, nullable=False),
        Column("partition", Integer, nullable=False),
        Column("queue", Text, nullable=False),
        Column("applied_offset", BigInteger, nullable=False),
        # The numbers of records that the generation applied (folded), and that it passed over because workers
        # did not apply them either.
        Column("folded", BigInteger, nullable=False, server_default=text("0")),
        Column("passed_duplicate", BigInteger, nullable=False, server_default=text("0")),
        Column("passed_dead", BigInteger, nullable=False, server_default=text("0")),
        Column("passed_waiting", BigInteger, nullable=False, server_default=text("0")),
        Column("passed_conflict", BigInteger, nullable=False, server_default=text("0")),
        Column("passed_unknown", BigInteger, nullable=False, server_default=text("0")),
        # The last transaction that wrote events of the lane only into this generation, and not into the live
        # generation. Older snapshots do not contain the rows of this transaction.
        Column("filled_xid", BigInteger),
        Column("passed_erased", BigInteger, nullable=False, server_default=text("0")),
    )


# Empty. A trigger stores an inserted row in `generation_offsets`, unless the lane has a row there. Processes
# of the previous version read the rows of `generation_offsets` through this table.
generation_lanes = Table(
    "generation_lanes",
    metadata,
    *_lane_columns(),
    PrimaryKeyConstraint("projection", "generation", "topic", "partition", "queue"),
    generation_key("generation_lanes_generation_fkey"),
    postgresql_with={"fillfactor": "30"},
)

# One row per lane, only for generations that are not live, or stopped. The offsets of other live generations
# are in `lane_offsets`. Requires the lock of the queue or of the row to change an offset.
generation_offsets = Table(
    "generation_offsets",
    metadata,
    *_lane_columns(),
    PrimaryKeyConstraint("projection", "generation", "queue", "topic", "partition", "applied_offset"),
    generation_key("generation_offsets_generation_fkey"),
    postgresql_inherits=quoted_name(f"{SCHEMA}.generation_lanes", quote=False),
)
generation_offsets.add_is_dependent_on(generation_lanes)

# The time when the next chunk may begin, for generations with a rate. The newest row of a generation counts.
generation_paces = Table(
    "generation_paces",
    metadata,
    Column("projection", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("paced_until", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("projection", "generation", "paced_until"),
    generation_key("generation_paces_generation_fkey"),
)

# A range (after, through] of a lane that a rebuild has read. `found` are the offsets in the range at which a
# worker first applied an event. Events outside of all spans were written by workers, or are from a
# checkpoint.
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

# Events that a generation contains, but that no rebuild has read at the offset where a worker first applied
# them.
generation_identities = Table(
    "generation_identities",
    metadata,
    Column("projection", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("identity", Uuid, nullable=False),
    PrimaryKeyConstraint("projection", "generation", "identity"),
    generation_key("generation_identities_generation_fkey"),
)

# Events that workers applied, but that this generation could not apply. Only older workers wrote rows here.
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
    # The live generation with which this generation was compared.
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
    # A list of [topic, partition, queue, epoch, applied offset] for every lane.
    Column("lanes", JSONB, nullable=False),
    # A list of [topic id, partition, offset] of the events that the copy lacks, because they were dead or
    # waiting.
    Column("open_letters", JSONB, nullable=False),
)
