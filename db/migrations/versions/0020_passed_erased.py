"""How many records of a lane a generation passed over since their entities were erased."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a counter that workers of before leave as it is."""
    op.execute("ALTER TABLE sluice.generation_lanes ADD COLUMN passed_erased bigint DEFAULT 0 NOT NULL")
