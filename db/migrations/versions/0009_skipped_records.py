"""Records that an operator skipped."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the table."""
    op.execute(
        """
        CREATE TABLE sluice.skipped_records (
            topic text NOT NULL, topic_id text NOT NULL, partition integer NOT NULL,
            first_offset bigint NOT NULL, last_offset bigint NOT NULL, records bigint NOT NULL,
            problem text NOT NULL, skipped_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT skipped_records_pkey PRIMARY KEY (topic_id, partition, first_offset),
            CONSTRAINT skipped_records_offsets_in_order CHECK (first_offset <= last_offset)
        )
        """
    )
