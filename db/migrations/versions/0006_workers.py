"""What a worker declares, and the queues that it left to others."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds them, with defaults: processes of before go on writing rows."""
    op.execute("ALTER TABLE sluice.workers ADD COLUMN declared jsonb DEFAULT '{}' NOT NULL")
    op.execute("ALTER TABLE sluice.workers ADD COLUMN format smallint DEFAULT 1 NOT NULL")
    op.execute("ALTER TABLE sluice.workers ADD COLUMN yielded text[] DEFAULT '{}' NOT NULL")
