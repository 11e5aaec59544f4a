"""The format of dead letters."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds them, with defaults: processes of before go on writing rows."""
    op.execute("ALTER TABLE sluice.dead_letters ADD COLUMN format smallint DEFAULT 1 NOT NULL")
