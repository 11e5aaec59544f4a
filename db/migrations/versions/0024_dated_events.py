"""An event gets the time when it is added, and not when its transaction began.

An erasure compares this time with its own.
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Changes the default. Existing rows keep the time at which their transaction began."""
    op.execute("ALTER TABLE sluice.processed_events ALTER COLUMN processed_at SET DEFAULT clock_timestamp()")
