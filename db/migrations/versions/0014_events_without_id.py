"""The number of events without an id in each lane."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a counter that older workers do not change."""
    op.execute("ALTER TABLE sluice.lane_progress ADD COLUMN without_id bigint DEFAULT 0 NOT NULL")
