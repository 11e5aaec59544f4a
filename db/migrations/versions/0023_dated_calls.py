"""A call gets the time when it is added, and not when its transaction began.

An erasure compares this time with its own.
"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Changes the default. Existing rows keep the time at which their transaction began."""
    op.execute(
        "ALTER TABLE sluice.executed_side_effects ALTER COLUMN created_at SET DEFAULT clock_timestamp()"
    )
