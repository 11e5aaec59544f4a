"""The missing parts of the record of a dead letter."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a nullable column, so that older processes continue to write rows."""
    op.execute("ALTER TABLE sluice.dead_letters ADD COLUMN flaw jsonb")
