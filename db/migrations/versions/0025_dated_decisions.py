"""Decisions are dated when they are added: `accept` decides under locks that it waits for."""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Changes the default. Rows of before keep the time at which their transaction began."""
    op.execute("ALTER TABLE sluice.audit ALTER COLUMN at SET DEFAULT clock_timestamp()")
