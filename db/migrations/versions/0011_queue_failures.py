"""Failures of the surroundings per queue, so that restarts and other workers continue the count."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the table."""
    op.execute(
        """
        CREATE TABLE sluice.queue_failures (
            queue text NOT NULL, topic text NOT NULL, partition integer NOT NULL, "offset" bigint NOT NULL,
            failures integer NOT NULL, batch_limit integer, error text NOT NULL,
            failed_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT queue_failures_pkey PRIMARY KEY (queue),
            CONSTRAINT queue_failures_queue_fkey FOREIGN KEY (queue) REFERENCES sluice.queues (queue)
        )
        """
    )
