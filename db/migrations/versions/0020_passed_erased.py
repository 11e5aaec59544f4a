"""The number of records that a generation passed over because their entities were erased."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a counter that older workers do not change."""
    op.execute("ALTER TABLE sluice.generation_lanes ADD COLUMN passed_erased bigint DEFAULT 0 NOT NULL")
