"""The tables of Sluice, schema `sluice`: the declaration that the migrations add up to."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA = "sluice"

OUTCOMES = ("applied", "duplicate", "stale", "conflict", "waiting", "dead", "ignored")
EFFECT_STATES = ("pending", "running", "succeeded", "failed", "uncertain")
DEAD_LETTER_STATES = ("dead", "waiting", "dropped", "done")

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
    },
)


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(v) for v in values)})", name=f"{column}_known")


def _now(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


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

# THE lock: whoever applies anything of a queue holds its row.
queues = Table(
    "queues",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("entity", Text, ForeignKey(entities.c.entity), nullable=False),
    Column("halted_reason", Text),
    Column("halted_at", DateTime(timezone=True)),
    # One letter per event tried, newest last: "." lived, "x" died. What the death share is judged by.
    Column("recent_fates", Text, nullable=False, server_default=""),
    Column("accepted_deaths", Integer, nullable=False, server_default=text("0")),
    CheckConstraint("length(recent_fates) <= 200", name="recent_fates_bounded"),
)

partition_progress = Table(
    "partition_progress",
    metadata,
    Column("topic", Text, ForeignKey(topics.c.topic), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("watermark", BigInteger, nullable=False),
    PrimaryKeyConstraint("topic", "partition"),
    # Rewritten every second or so per partition: room for HOT updates.
    postgresql_with={"fillfactor": "50"},
)

lane_progress = Table(
    "lane_progress",
    metadata,
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("queue", Text, ForeignKey(queues.c.queue), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("applied_offset", BigInteger, nullable=False),
    *(Column(name, BigInteger, nullable=False, server_default=text("0")) for name in OUTCOMES),
    Column("call_conflict", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("topic", "partition", "queue", "epoch"),
    # Rewritten by every batch: room for HOT updates.
    postgresql_with={"fillfactor": "30"},
)

# A worker reads the lanes of one queue.
Index("lane_progress_queue_idx", lane_progress.c.queue, lane_progress.c.epoch)

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
    _now("processed_at"),
    _one_of("outcome", OUTCOMES),
)

# Old ones are purged by age. They lie in order of age: ranges of pages will do, and cost an insert nothing.
Index("processed_events_age_idx", processed_events.c.processed_at, postgresql_using="brin")

tombstones = Table(
    "tombstones",
    metadata,
    Column("table_name", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("version", BigInteger),
    PrimaryKeyConstraint("table_name", "key"),
)

outbox_ids = Sequence("outbox_ids", metadata=metadata)

outbox_events = Table(
    "outbox_events",
    metadata,
    Column("queue", Text, nullable=False),
    Column("id", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("topic", Text, nullable=False),
    Column("key", Text),
    Column("type", Text, nullable=False),
    Column("version", Text),
    Column("headers", JSONB, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    _now("created_at"),
    PrimaryKeyConstraint("queue", "id"),
)

relay_progress = Table(
    "relay_progress",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("sent_through", BigInteger, nullable=False),
)

# Records that the broker refuses for good, by themselves: each holds back its (topic, key) in its
# queue, and nothing else.
# No foreign key: its trigger would run for every row that the relay deletes.
outbox_refusals = Table(
    "outbox_refusals",
    metadata,
    Column("queue", Text, nullable=False),
    Column("id", BigInteger, nullable=False),
    Column("topic", Text, nullable=False),
    Column("key", Text),
    Column("error", Text, nullable=False),
    _now("refused_at"),
    PrimaryKeyConstraint("queue", "id"),
)
Index("outbox_refusals_held_idx", outbox_refusals.c.topic, outbox_refusals.c.key)

# A row is a switch that is on.
switches = Table(
    "switches",
    metadata,
    Column("name", Text, primary_key=True),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    _now("set_at"),
)

executed_side_effects = Table(
    "executed_side_effects",
    metadata,
    Column("effect_key", Text, primary_key=True),
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("effect", Text, nullable=False),
    Column("identity", Uuid, nullable=False),
    Column("entity", Text, nullable=False),
    Column("entity_key", Text),
    # NULL once its time is over: only the key is kept.
    Column("args", JSONB),
    Column("fingerprint", Uuid, nullable=False),
    Column("explicit_once", Boolean, nullable=False),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("attempt", SmallInteger, nullable=False, server_default=text("0")),
    Column("lease_until", DateTime(timezone=True)),
    _now("due_at"),
    Column("dispatched_at", DateTime(timezone=True)),
    Column("first_attempt_at", DateTime(timezone=True)),
    Column("response", JSONB),
    Column("error", Text),
    _now("created_at"),
    # Whether an attempt ended so that nobody knows what the provider did.
    Column("ended_unknown", Boolean, nullable=False, server_default=text("false")),
    # Attempts since it was last released; `attempt` rises for good and tells whose answer counts.
    Column("tried", SmallInteger, nullable=False, server_default=text("0")),
    Column("settled_at", DateTime(timezone=True)),
    _one_of("state", EFFECT_STATES),
)
_effects = executed_side_effects.c
Index(
    "executed_side_effects_due_idx",
    _effects.due_at,
    _effects.id,
    postgresql_where=text("state = 'pending'"),
)
Index("executed_side_effects_lease_idx", _effects.lease_until, postgresql_where=text("state = 'running'"))
# Which calls of an entity come before another.
Index(
    "executed_side_effects_open_idx",
    _effects.entity,
    _effects.entity_key,
    _effects.effect,
    _effects.id,
    postgresql_where=text("state <> 'succeeded'"),
)
Index(
    "executed_side_effects_settled_idx",
    _effects.settled_at,
    postgresql_where=text("state = 'succeeded' AND args IS NOT NULL"),
)

call_conflicts = Table(
    "call_conflicts",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("effect_key", Text, nullable=False),
    Column("identity", Uuid, nullable=False),
    Column("args", JSONB, nullable=False),
    _now("created_at"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    # Drawn under the queue's lock: the order in which an entity's letters are redriven.
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("topic_id", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("timestamp_ms", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", JSONB, nullable=False),
    Column("queue", Text, nullable=False),
    Column("entity", Text, nullable=False),
    Column("entity_key", Text),
    Column("identity", Uuid, nullable=False),
    Column("event_id", Text),
    Column("type", Text),
    Column("source", Text),
    Column("outcome", Text, nullable=False),
    Column("error_class", Text, nullable=False),
    Column("error_text", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("1")),
    Column("state", Text, nullable=False, server_default="dead"),
    _now("created_at"),
    Column("settled_at", DateTime(timezone=True)),
    UniqueConstraint("topic_id", "partition", "offset", name="dead_letters_record_key"),
    _one_of("outcome", ("dead", "conflict", "waiting")),
    _one_of("state", DEAD_LETTER_STATES),
)
Index("dead_letters_entity_idx", dead_letters.c.entity, dead_letters.c.entity_key, dead_letters.c.id)

parked_entities = Table(
    "parked_entities",
    metadata,
    Column("entity", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("queue", Text, ForeignKey(queues.c.queue), nullable=False),
    Column("reason", Text, nullable=False),
    _now("parked_at"),
    PrimaryKeyConstraint("entity", "key"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _now("at"),
    Column("actor", Text, nullable=False),
    Column("verb", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("details", JSONB),
)
