"""An installation stores which share of the partitions it takes. An existing installation takes all."""

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column with a constant default, so the row is not rewritten."""
    op.execute(
        """
        ALTER TABLE sluice.installation ADD COLUMN partition_share text NOT NULL DEFAULT '1/1'
            CONSTRAINT installation_partition_share_form CHECK (partition_share ~ '^[1-9][0-9]*/[1-9][0-9]*$')
        """
    )
