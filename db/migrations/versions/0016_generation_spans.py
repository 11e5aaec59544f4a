"""The events that a rebuild found in the log, so that it applies each event once, at any offset."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds both tables, and a column for the checkpoint where a generation began."""
    op.execute("ALTER TABLE sluice.generations ADD COLUMN checkpoint text")
    op.execute(
        """
        UPDATE sluice.generations g SET checkpoint = a.details->>'from' FROM sluice.audit a
        WHERE a.verb = 'rebuild start' AND a.subject = g.projection
          AND a.details->>'generation' = g.generation::text
        """
    )
    op.execute(
        """
        CREATE TABLE sluice.generation_spans (
            projection text NOT NULL, generation integer NOT NULL, topic text NOT NULL,
            partition integer NOT NULL, queue text NOT NULL, after_offset bigint NOT NULL,
            through_offset bigint NOT NULL, found bigint[] NOT NULL,
            CONSTRAINT generation_spans_pkey
                PRIMARY KEY (projection, generation, topic, partition, queue, through_offset),
            CONSTRAINT generation_spans_generation_fkey FOREIGN KEY(projection, generation)
                REFERENCES sluice.generations (projection, generation) ON DELETE CASCADE
        )
        """
    )
    op.execute(
        """
        CREATE TABLE sluice.generation_identities (
            projection text NOT NULL, generation integer NOT NULL, identity uuid NOT NULL,
            CONSTRAINT generation_identities_pkey PRIMARY KEY (projection, generation, identity),
            CONSTRAINT generation_identities_generation_fkey FOREIGN KEY(projection, generation)
                REFERENCES sluice.generations (projection, generation) ON DELETE CASCADE
        )
        """
    )
