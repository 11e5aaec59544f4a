"""The outcome of events whose entities were erased."""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Allows one more outcome. The existing rows are checked later, because this lock stops workers."""
    op.execute(
        """
        ALTER TABLE sluice.processed_events
            DROP CONSTRAINT processed_events_outcome_known,
            ADD CONSTRAINT processed_events_outcome_known CHECK (outcome IN (
                'applied', 'duplicate', 'stale', 'conflict', 'waiting', 'dead', 'ignored', 'erased'
            )) NOT VALID
        """
    )
