"""The source and the format of outgoing events."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds them, with defaults: processes of before go on writing rows."""
    op.execute("ALTER TABLE sluice.outbox_events ADD COLUMN source text")
    op.execute("ALTER TABLE sluice.outbox_events ADD COLUMN format smallint DEFAULT 1 NOT NULL")
    # Empty as long as this code is the newest: what the relay asks with every page costs nothing.
    op.execute(
        "CREATE INDEX outbox_events_newer_idx ON sluice.outbox_events (queue, topic, key, id)"
        " WHERE format > 1"
    )
