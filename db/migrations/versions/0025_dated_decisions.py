"""A decision gets the time when it is added, because `sluice accept` may wait for locks before it decides."""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Changes the default. Existing rows keep the time at which their transaction began."""
    op.execute("ALTER TABLE sluice.audit ALTER COLUMN at SET DEFAULT clock_timestamp()")
