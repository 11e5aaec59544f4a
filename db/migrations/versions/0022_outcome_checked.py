"""The outcomes of events that were stored before are checked, while workers write."""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Reads the table under a lock that no reader and no writer of rows waits for."""
    op.execute("ALTER TABLE sluice.processed_events VALIDATE CONSTRAINT processed_events_outcome_known")
