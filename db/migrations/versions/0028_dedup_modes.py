"""How repeated events of a topic are recognised, and the offsets from which each mode applies."""

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a column that older processes do not read, and a table. Known topics have no stored mode yet."""
    op.execute(
        """
        ALTER TABLE sluice.topics ADD COLUMN dedup text,
            ADD CONSTRAINT topics_dedup_known CHECK (dedup IN ('id', 'position', 'natural'));
        CREATE TABLE sluice.dedup_starts (
            topic text NOT NULL, topic_id text NOT NULL, partition integer NOT NULL,
            first_offset bigint NOT NULL, dedup text NOT NULL,
            CONSTRAINT dedup_starts_pkey PRIMARY KEY (topic_id, partition, first_offset),
            CONSTRAINT dedup_starts_topic_fkey FOREIGN KEY (topic) REFERENCES sluice.topics (topic),
            CONSTRAINT dedup_starts_dedup_known CHECK (dedup IN ('id', 'position', 'natural'))
        );
        """
    )
