"""Checks the outcomes of existing events while workers write."""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Reads the table. The lock blocks neither readers nor writers of rows."""
    op.execute("ALTER TABLE sluice.processed_events VALIDATE CONSTRAINT processed_events_outcome_known")
