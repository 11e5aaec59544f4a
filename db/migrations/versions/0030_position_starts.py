"""Topics with dedup="position" need no identities from now on."""

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Stores where the mode begins, for topics whose mode is stored. Earlier records have identities."""
    op.execute(
        """
        INSERT INTO sluice.dedup_starts (topic, topic_id, partition, first_offset, dedup)
        SELECT t.topic, t.topic_id, p.partition, p.watermark, t.dedup
        FROM sluice.topics t JOIN sluice.partition_watermarks p ON p.topic = t.topic
        WHERE t.dedup = 'position' AND NOT EXISTS (
            SELECT FROM sluice.dedup_starts s
            WHERE s.topic_id = t.topic_id AND s.partition = p.partition AND s.dedup = 'position'
        )
        ON CONFLICT (topic_id, partition, first_offset) DO UPDATE SET dedup = excluded.dedup
        """
    )
