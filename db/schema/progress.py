"""The tables of the delivery guard, and the identities of events."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)

from sluice.db.records import Outcome, ProblemKind
from sluice.db.schema.declarations import OUTCOMES, metadata, moment_column, now_column, one_of

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
)

# With every batch, a worker reads the topics of one entity type.
Index("topics_entity_idx", topics.c.entity)

# THE lock: a process that applies records of a queue holds its row.
queues = Table(
    "queues",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("entity", Text, ForeignKey(entities.c.entity), nullable=False),
    Column("halted_reason", Text),
    Column("halted_at", DateTime(timezone=True)),
    # One character per tried event, newest last: "." succeeded, "x" failed. The circuit breaker reads it.
    Column("failure_window", Text, nullable=False, server_default=""),
    Column("accepted_deaths", Integer, nullable=False, server_default=text("0")),
    CheckConstraint("length(failure_window) <= 200", name="failure_window_bounded"),
)

# Consecutive failed transactions at one record. A row exists only while the surroundings fail.
queue_failures = Table(
    "queue_failures",
    metadata,
    Column("queue", Text, ForeignKey(queues.c.queue), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    # Maximum number of events of one transaction; NULL: as many as a message holds.
    Column("batch_limit", Integer),
    Column("error", Text, nullable=False),
    now_column("failed_at"),
)

partition_progress = Table(
    "partition_progress",
    metadata,
    Column("topic", Text, ForeignKey(topics.c.topic), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("watermark", BigInteger, nullable=False),
    PrimaryKeyConstraint("topic", "partition"),
    # Rewritten about every second per partition: room for HOT updates.
    postgresql_with={"fillfactor": "50"},
)


def _counter(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


lane_progress = Table(
    "lane_progress",
    metadata,
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("queue", Text, ForeignKey(queues.c.queue), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("applied_offset", BigInteger, nullable=False),
    *(_counter(name) for name in OUTCOMES if name != Outcome.ERASED),
    _counter("call_conflict"),
    _counter("without_id"),
    _counter(Outcome.ERASED),
    PrimaryKeyConstraint("topic", "partition", "queue", "epoch"),
    # Rewritten by every batch: room for HOT updates.
    postgresql_with={"fillfactor": "30"},
)

# Rewritten every few seconds per partition: room for HOT updates.
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

# A worker reads the lanes of one queue.
Index("lane_progress_queue_idx", lane_progress.c.queue, lane_progress.c.epoch)

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

# Events in whose handler a worker's process ended. A row is deleted when its event has an outcome.
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

# The event or batch whose handlers a worker without a supervisor runs. An event that remains is a death.
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
    # Rewritten with each event that is noted: room for HOT updates.
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
    # The time when the event was applied, or when it was repeated half a day or more later.
    moment_column("processed_at"),
    one_of("outcome", Outcome),
)

# Rows are purged by age and stored in that order, so a BRIN is enough and costs inserts nothing.
Index("processed_events_age_idx", processed_events.c.processed_at, postgresql_using="brin")

tombstones = Table(
    "tombstones",
    metadata,
    Column("table_name", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("version", BigInteger),
    PrimaryKeyConstraint("table_name", "key"),
)
