"""The last transaction that filled a generation: older snapshots do not see all of its rows."""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column. Existing lanes count as filled now. Older workers do not change the column."""
    op.execute(
        """
        ALTER TABLE sluice.generation_lanes
            ADD COLUMN filled_xid bigint DEFAULT pg_current_xact_id()::text::bigint;
        ALTER TABLE sluice.generation_lanes ALTER COLUMN filled_xid DROP DEFAULT
        """
    )
