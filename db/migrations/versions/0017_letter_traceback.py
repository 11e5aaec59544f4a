"""The frames of the handler in a dead letter."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a column that older workers leave empty."""
    op.execute("ALTER TABLE sluice.dead_letters ADD COLUMN traceback text")
