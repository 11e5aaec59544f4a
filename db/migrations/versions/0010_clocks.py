"""The difference between the clock of each process and the clock of Postgres."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a column that older processes leave empty."""
    op.execute("ALTER TABLE sluice.processes ADD COLUMN clock_offset double precision")
