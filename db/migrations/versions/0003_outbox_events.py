"""The source and the format of outgoing events."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns with defaults, so that older processes continue to write rows."""
    op.execute("ALTER TABLE sluice.outbox_events ADD COLUMN source text")
    op.execute("ALTER TABLE sluice.outbox_events ADD COLUMN format smallint DEFAULT 1 NOT NULL")
    # The index is empty if no newer code runs. Then the relay's query for newer rows costs nothing.
    op.execute(
        "CREATE INDEX outbox_events_newer_idx ON sluice.outbox_events (queue, topic, key, id)"
        " WHERE format > 1"
    )
