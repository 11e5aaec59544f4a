"""What workers that share the queues say of themselves."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision: str | None = "0003"
branch_labels = None
depends_on = None

SCHEMA = "sluice"


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "workers",
        sa.Column("backend_pid", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("process_id", sa.Integer(), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("leases", postgresql.JSONB(), nullable=False),
        sa.Column("busy_queue", sa.Text()),
        sa.Column("busy_since", sa.DateTime(timezone=True)),
        sa.Column("last_queue", sa.Text()),
        sa.Column("last_at", sa.DateTime(timezone=True)),
        sa.Column("last_records", sa.Integer()),
        sa.Column("last_seconds", sa.Double()),
        sa.PrimaryKeyConstraint("backend_pid", name=op.f("workers_pkey")),
        schema=SCHEMA,
        postgresql_with={"fillfactor": "50"},
    )
