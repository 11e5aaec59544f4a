"""Letters of one generation of a projection, and stopped generations."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds two tables, and a column and states for stopped generations. Older processes continue."""
    op.execute(
        """
        CREATE TABLE sluice.projection_letters (
            id bigint NOT NULL, projection text NOT NULL, generation integer NOT NULL, topic text NOT NULL,
            topic_id text NOT NULL, partition integer NOT NULL, "offset" bigint NOT NULL,
            timestamp_ms bigint NOT NULL, key bytea, value bytea, headers jsonb NOT NULL,
            entity text NOT NULL, entity_key text, identity uuid NOT NULL, event_id text, type text,
            source text, outcome text NOT NULL, error_class text NOT NULL, error_text text NOT NULL,
            traceback text, attempts integer DEFAULT 1 NOT NULL,
            state text DEFAULT 'dead' NOT NULL, holds boolean NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL, settled_at timestamptz,
            format smallint DEFAULT 1 NOT NULL, flaw jsonb,
            CONSTRAINT projection_letters_pkey
                PRIMARY KEY (projection, generation, topic_id, partition, "offset"),
            CONSTRAINT projection_letters_id_key UNIQUE (id),
            CONSTRAINT projection_letters_generation_fkey FOREIGN KEY (projection, generation)
                REFERENCES sluice.generations (projection, generation) ON DELETE CASCADE,
            CONSTRAINT projection_letters_outcome_known CHECK (outcome IN ('dead', 'conflict', 'waiting')),
            CONSTRAINT projection_letters_state_known
                CHECK (state IN ('dead', 'waiting', 'dropped', 'done'))
        );
        CREATE INDEX projection_letters_open_idx
            ON sluice.projection_letters (projection, generation, entity, entity_key, id)
            WHERE state IN ('dead', 'waiting');
        CREATE TABLE sluice.generation_failures (
            projection text NOT NULL, generation integer NOT NULL, queue text NOT NULL,
            failure_window text NOT NULL,
            CONSTRAINT generation_failures_pkey PRIMARY KEY (projection, generation, queue),
            CONSTRAINT generation_failures_generation_fkey FOREIGN KEY (projection, generation)
                REFERENCES sluice.generations (projection, generation) ON DELETE CASCADE
        );
        ALTER TABLE sluice.generations
            ADD COLUMN stopped_at timestamptz,
            DROP CONSTRAINT generations_state_known,
            ADD CONSTRAINT generations_state_known CHECK (state IN
                ('building', 'failed', 'ready', 'live', 'retired', 'stopped', 'resuming'))
        """
    )
