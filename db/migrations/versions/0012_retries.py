"""Events that were set aside and are retried without an operator."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the table."""
    op.execute(
        """
        CREATE TABLE sluice.retries (
            letter_id bigint NOT NULL, queue text NOT NULL, entity text NOT NULL, key text,
            kind text NOT NULL, failures integer DEFAULT 0 NOT NULL, attempts integer DEFAULT 0 NOT NULL,
            set_aside_at timestamptz DEFAULT now() NOT NULL, retry_at timestamptz NOT NULL,
            blockers jsonb, blockers_at timestamptz,
            CONSTRAINT retries_pkey PRIMARY KEY (letter_id),
            CONSTRAINT retries_letter_id_fkey FOREIGN KEY (letter_id)
                REFERENCES sluice.dead_letters (id) ON DELETE CASCADE,
            CONSTRAINT retries_kind_known CHECK (kind IN ('timed_out', 'row_held', 'unavailable'))
        );
        CREATE INDEX retries_queue_idx ON sluice.retries (queue, retry_at);
        CREATE INDEX retries_entity_idx ON sluice.retries (entity, key);
        """
    )
