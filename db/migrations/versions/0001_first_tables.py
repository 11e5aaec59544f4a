"""The tables of the delivery guard, of events and effects on their way, and of dead letters."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision: str | None = None
branch_labels = None
depends_on = None

SCHEMA = "sluice"


def upgrade() -> None:
    """Makes them."""
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("details", JSONB()),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "call_conflicts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("effect_key", sa.Text(), nullable=False),
        sa.Column("identity", sa.Uuid(), nullable=False),
        sa.Column("args", JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("call_conflicts_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("topic_id", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.LargeBinary()),
        sa.Column("value", sa.LargeBinary()),
        sa.Column("headers", JSONB(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("entity_key", sa.Text()),
        sa.Column("identity", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Text()),
        sa.Column("type", sa.Text()),
        sa.Column("source", sa.Text()),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("error_class", sa.Text(), nullable=False),
        sa.Column("error_text", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("state", sa.Text(), server_default="dead", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('dead', 'conflict', 'waiting')", name=op.f("dead_letters_outcome_known")
        ),
        sa.CheckConstraint(
            "state IN ('dead', 'waiting', 'dropped', 'done')", name=op.f("dead_letters_state_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("dead_letters_pkey")),
        sa.UniqueConstraint("topic_id", "partition", "offset", name="dead_letters_record_key"),
        schema=SCHEMA,
    )
    op.create_index("dead_letters_entity_idx", "dead_letters", ["entity", "entity_key", "id"], schema=SCHEMA)
    op.create_table(
        "entities",
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("shards", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint("shards > 0", name=op.f("entities_shards_positive")),
        sa.PrimaryKeyConstraint("entity", name=op.f("entities_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "executed_side_effects",
        sa.Column("effect_key", sa.Text(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("effect", sa.Text(), nullable=False),
        sa.Column("identity", sa.Uuid(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("entity_key", sa.Text()),
        sa.Column("args", JSONB(), nullable=False),
        sa.Column("fingerprint", sa.Uuid(), nullable=False),
        sa.Column("explicit_once", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempt", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("dispatched_at", sa.DateTime(timezone=True)),
        sa.Column("first_attempt_at", sa.DateTime(timezone=True)),
        sa.Column("response", JSONB()),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'succeeded', 'failed', 'uncertain')",
            name=op.f("executed_side_effects_state_known"),
        ),
        sa.PrimaryKeyConstraint("effect_key", name=op.f("executed_side_effects_pkey")),
        schema=SCHEMA,
    )
    op.execute(sa.schema.CreateSequence(sa.Sequence("outbox_ids", schema=SCHEMA)))
    op.create_table(
        "outbox_events",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("key", sa.Text()),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("version", sa.Text()),
        sa.Column("headers", JSONB(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "id", name=op.f("outbox_events_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "processed_events",
        sa.Column("identity", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Text()),
        sa.Column("data_hash", sa.Uuid(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("topic_id", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("processed_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('applied', 'duplicate', 'stale', 'conflict', 'waiting', 'dead', 'ignored')",
            name=op.f("processed_events_outcome_known"),
        ),
        sa.PrimaryKeyConstraint("identity", name=op.f("processed_events_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "relay_progress",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("sent_through", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("queue", name=op.f("relay_progress_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "tombstones",
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger()),
        sa.PrimaryKeyConstraint("table_name", "key", name=op.f("tombstones_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "queues",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("halted_reason", sa.Text()),
        sa.Column("halted_at", sa.DateTime(timezone=True)),
        sa.Column("recent_fates", sa.Text(), server_default="", nullable=False),
        sa.Column("accepted_deaths", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("length(recent_fates) <= 200", name=op.f("queues_recent_fates_bounded")),
        sa.ForeignKeyConstraint(["entity"], ["sluice.entities.entity"], name=op.f("queues_entity_fkey")),
        sa.PrimaryKeyConstraint("queue", name=op.f("queues_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "topics",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("topic_id", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["entity"], ["sluice.entities.entity"], name=op.f("topics_entity_fkey")),
        sa.PrimaryKeyConstraint("topic", name=op.f("topics_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "lane_progress",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("applied_offset", sa.BigInteger(), nullable=False),
        sa.Column("applied", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("duplicate", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("stale", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("conflict", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("waiting", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("dead", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("ignored", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("call_conflict", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["queue"], ["sluice.queues.queue"], name=op.f("lane_progress_queue_fkey")),
        sa.PrimaryKeyConstraint("topic", "partition", "queue", "epoch", name=op.f("lane_progress_pkey")),
        schema=SCHEMA,
        postgresql_with={"fillfactor": "30"},
    )
    op.create_index("lane_progress_queue_idx", "lane_progress", ["queue", "epoch"], schema=SCHEMA)
    op.create_table(
        "parked_entities",
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("parked_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(["queue"], ["sluice.queues.queue"], name=op.f("parked_entities_queue_fkey")),
        sa.PrimaryKeyConstraint("entity", "key", name=op.f("parked_entities_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "partition_progress",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["topic"], ["sluice.topics.topic"], name=op.f("partition_progress_topic_fkey")
        ),
        sa.PrimaryKeyConstraint("topic", "partition", name=op.f("partition_progress_pkey")),
        schema=SCHEMA,
        postgresql_with={"fillfactor": "50"},
    )
