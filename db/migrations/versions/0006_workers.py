"""The declarations of a worker, and the queues that it gave back."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns with defaults, so that older processes continue to write rows."""
    op.execute("ALTER TABLE sluice.workers ADD COLUMN declared jsonb DEFAULT '{}' NOT NULL")
    op.execute("ALTER TABLE sluice.workers ADD COLUMN format smallint DEFAULT 1 NOT NULL")
    op.execute("ALTER TABLE sluice.workers ADD COLUMN yielded text[] DEFAULT '{}' NOT NULL")
