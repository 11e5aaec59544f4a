"""The format of dead letters."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column with a default, so that older processes continue to write rows."""
    op.execute("ALTER TABLE sluice.dead_letters ADD COLUMN format smallint DEFAULT 1 NOT NULL")
