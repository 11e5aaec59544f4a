"""What leaves: records that the broker refuses, how calls ended, switches, and indexes for the relay."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels = None
depends_on = None

SCHEMA = "sluice"


def upgrade() -> None:
    """Makes them."""
    op.create_table(
        "outbox_refusals",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("key", sa.Text()),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("refused_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "id", name=op.f("outbox_refusals_pkey")),
        schema=SCHEMA,
    )
    op.create_index("outbox_refusals_held_idx", "outbox_refusals", ["topic", "key"], schema=SCHEMA)
    op.create_table(
        "switches",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("switches_pkey")),
        schema=SCHEMA,
    )
    effects = "executed_side_effects"
    op.add_column(
        effects,
        sa.Column("ended_unknown", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        schema=SCHEMA,
    )
    op.add_column(
        effects,
        sa.Column("tried", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        schema=SCHEMA,
    )
    op.add_column(effects, sa.Column("settled_at", sa.DateTime(timezone=True)), schema=SCHEMA)
    op.alter_column(effects, "args", nullable=True, schema=SCHEMA)
    for name, columns, where in (
        ("due_idx", ["due_at", "id"], "state = 'pending'"),
        ("lease_idx", ["lease_until"], "state = 'running'"),
        ("open_idx", ["entity", "entity_key", "effect", "id"], "state <> 'succeeded'"),
        ("settled_idx", ["settled_at"], "state = 'succeeded' AND args IS NOT NULL"),
    ):
        op.create_index(f"{effects}_{name}", effects, columns, schema=SCHEMA, postgresql_where=sa.text(where))
    op.add_column("dead_letters", sa.Column("settled_at", sa.DateTime(timezone=True)), schema=SCHEMA)
    op.create_index(
        "processed_events_age_idx",
        "processed_events",
        ["processed_at"],
        schema=SCHEMA,
        postgresql_using="brin",
    )
