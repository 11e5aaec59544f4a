"""The events in whose handlers a worker's process ended, and the events whose handlers run."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds both tables."""
    op.execute(
        """
        CREATE TABLE sluice.handler_deaths (
            queue text NOT NULL, topic text NOT NULL, topic_id text NOT NULL,
            partition integer NOT NULL, "offset" bigint NOT NULL, deaths integer NOT NULL,
            timed_out boolean NOT NULL, how text NOT NULL, last_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT handler_deaths_pkey PRIMARY KEY (queue, topic_id, partition, "offset")
        )
        """
    )
    op.execute(
        """
        CREATE TABLE sluice.handler_notes (
            queue text NOT NULL, worker uuid NOT NULL, topic text NOT NULL, topic_id text NOT NULL,
            partition integer NOT NULL, "offset" bigint NOT NULL, is_batch boolean NOT NULL,
            noted_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT handler_notes_pkey PRIMARY KEY (queue, worker)
        ) WITH (fillfactor = 50)
        """
    )
