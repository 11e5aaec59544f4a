"""The tables of the delivery guard, with the identities of events."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.sql.elements import quoted_name

from sluice.db.records import DedupMode, Outcome, ProblemKind
from sluice.db.schema.declarations import (
    OUTCOMES,
    SCHEMA,
    metadata,
    moment_column,
    now_column,
    one_of,
)

entities = Table(
    "entities",
    metadata,
    Column("entity", Text, primary_key=True),
    Column("shards", Integer, CheckConstraint("shards > 0", name="shards_positive"), nullable=False),
    Column("epoch", Integer, nullable=False, server_default=text("1")),
)

topics = Table(
    "topics",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("topic_id", Text, nullable=False),
    Column("entity", Text, ForeignKey(entities.c.entity), nullable=False),
    # NULL for a topic that an earlier version registered: the declared mode is used, except "natural".
    Column("dedup", Text),
    one_of("dedup", DedupMode),
)

# The mode of the records from an offset on, up to the next start. Records below the first start have
# identities.
dedup_starts = Table(
    "dedup_starts",
    metadata,
    Column("topic", Text, ForeignKey(topics.c.topic), nullable=False),
    Column("topic_id", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("dedup", Text, nullable=False),
    PrimaryKeyConstraint("topic_id", "partition", "first_offset"),
    one_of("dedup", DedupMode),
)

# For workers, which read the topics of one entity type with every batch.
Index("topics_entity_idx", topics.c.entity)

# A row is THE lock of its queue: a process that applies records of the queue locks the row.
queues = Table(
    "queues",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("entity", Text, ForeignKey(entities.c.entity), nullable=False),
    Column("halted_reason", Text),
    Column("halted_at", DateTime(timezone=True)),
    # Only processes of the previous version use this column. Others use `failure_windows`.
    Column("failure_window", Text, nullable=False, server_default=""),
    Column("accepted_deaths", Integer, nullable=False, server_default=text("0")),
    CheckConstraint("length(failure_window) <= 200", name="failure_window_bounded"),
)

# Consecutive failed transactions of a queue at one record. A row exists only while the surroundings are at
# fault.
queue_failures = Table(
    "queue_failures",
    metadata,
    Column("queue", Text, ForeignKey(queues.c.queue), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    # The maximum number of events of one transaction; NULL: as many as a message contains.
    Column("batch_limit", Integer),
    Column("error", Text, nullable=False),
    now_column("failed_at"),
)

# The rows of the next three tables are rewritten every second or with every batch. While a snapshot is old,
# Postgres keeps each version of a row. Therefore the value that increases is the last column of the only
# index, each row is found by its complete key or as the newest of its key, and no read walks old versions. A
# unique index without this column would make each write check all versions. So the locks of the writers
# ensure that there is one row per key.

# The results of the last events that were tried in a queue. The circuit breaker reads them. Requires the
# queue's lock.
failure_windows = Table(
    "failure_windows",
    metadata,
    Column("queue", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    # One character per event, newest last: "." succeeded, "x" failed.
    Column("failure_window", Text, nullable=False),
    PrimaryKeyConstraint("queue", "step"),
    CheckConstraint("length(failure_window) <= 200", name="failure_window_bounded"),
)


def _partition_columns() -> list[Column[Any]]:
    return [
        Column("topic", Text, nullable=False),
        Column("partition", Integer, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("watermark", BigInteger, nullable=False),
    ]


def _lane_columns() -> list[Column[Any]]:
    return [
        Column("topic", Text, nullable=False),
        Column("partition", Integer, nullable=False),
        Column("queue", Text, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("applied_offset", BigInteger, nullable=False),
        *(_counter(name) for name in OUTCOMES if name != Outcome.ERASED),
        _counter("call_conflict"),
        _counter("without_id"),
        _counter(Outcome.ERASED),
    ]


def _counter(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


# Empty tables for processes of the previous version. A trigger passes their rows to the tables below, which
# inherit from them, so that these processes also read the rows.
partition_progress = Table(
    "partition_progress",
    metadata,
    *_partition_columns(),
    PrimaryKeyConstraint("topic", "partition"),
    ForeignKeyConstraint(["topic"], [topics.c.topic]),
    postgresql_with={"fillfactor": "50"},
)
lane_progress = Table(
    "lane_progress",
    metadata,
    *_lane_columns(),
    PrimaryKeyConstraint("topic", "partition", "queue", "epoch"),
    ForeignKeyConstraint(["queue"], [queues.c.queue]),
    postgresql_with={"fillfactor": "30"},
)
Index("lane_progress_queue_idx", lane_progress.c.queue, lane_progress.c.epoch)

# One row per partition. Requires the lock of the entity type to insert a row.
partition_watermarks = Table(
    "partition_watermarks",
    metadata,
    *_partition_columns(),
    PrimaryKeyConstraint("topic", "partition", "epoch", "watermark"),
    postgresql_inherits=quoted_name(f"{SCHEMA}.partition_progress", quote=False),
)
partition_watermarks.add_is_dependent_on(partition_progress)

# One row per lane. Requires the queue's lock to insert a row or to change an offset.
lane_offsets = Table(
    "lane_offsets",
    metadata,
    *_lane_columns(),
    PrimaryKeyConstraint("queue", "epoch", "topic", "partition", "applied_offset"),
    postgresql_inherits=quoted_name(f"{SCHEMA}.lane_progress", quote=False),
)
lane_offsets.add_is_dependent_on(lane_progress)

# Each partition's row is rewritten every few seconds. The fill factor leaves room for HOT updates.
partition_reads = Table(
    "partition_reads",
    metadata,
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    now_column("noted_at"),
    now_column("reported_at"),
    Column("read_at", DateTime(timezone=True)),
    Column("reader", Uuid),
    Column("problem", Text),
    Column("detail", Text),
    Column("problem_offset", BigInteger),
    Column("problem_since", DateTime(timezone=True)),
    PrimaryKeyConstraint("topic", "partition"),
    one_of("problem", ProblemKind),
    postgresql_with={"fillfactor": "50"},
)

# Records that an operator skipped, because the Kafka client cannot read them.
skipped_records = Table(
    "skipped_records",
    metadata,
    Column("topic", Text, nullable=False),
    Column("topic_id", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("last_offset", BigInteger, nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("problem", Text, nullable=False),
    now_column("skipped_at"),
    PrimaryKeyConstraint("topic_id", "partition", "first_offset"),
    CheckConstraint("first_offset <= last_offset", name="offsets_in_order"),
)

# Events in whose handlers a worker's process ended. A row is deleted when its event has an outcome.
handler_deaths = Table(
    "handler_deaths",
    metadata,
    Column("queue", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("topic_id", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("timed_out", Boolean, nullable=False),
    Column("how", Text, nullable=False),
    now_column("last_at"),
    PrimaryKeyConstraint("queue", "topic_id", "partition", "offset"),
)

# The event or batch whose handlers a worker without a supervisor runs. If a row of an event remains, it is
# counted as a death.
handler_notes = Table(
    "handler_notes",
    metadata,
    Column("queue", Text, nullable=False),
    Column("worker", Uuid, nullable=False),
    Column("topic", Text, nullable=False),
    Column("topic_id", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("is_batch", Boolean, nullable=False),
    now_column("noted_at"),
    PrimaryKeyConstraint("queue", "worker"),
    # A row is rewritten with each event that is noted. The fill factor leaves room for HOT updates.
    postgresql_with={"fillfactor": "50"},
)

processed_events = Table(
    "processed_events",
    metadata,
    Column("identity", Uuid, primary_key=True),
    Column("event_id", Text),
    Column("data_hash", Uuid, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("topic_id", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    # The time when the event was applied. A repeat half a day or more later sets the time of the repeat.
    moment_column("processed_at"),
    one_of("outcome", Outcome),
)

# Rows are purged by age, and are stored in the order of their age. Therefore a BRIN is enough, which costs
# inserts nearly nothing.
Index("processed_events_age_idx", processed_events.c.processed_at, postgresql_using="brin")

tombstones = Table(
    "tombstones",
    metadata,
    Column("table_name", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("version", BigInteger),
    PrimaryKeyConstraint("table_name", "key"),
)
