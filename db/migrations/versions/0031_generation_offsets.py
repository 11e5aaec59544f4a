"""Lanes of generations whose reads do not walk the versions that an old snapshot keeps.

As in migration 0026, processes of the previous version continue to use `generation_lanes`.
"""

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

COUNTERS = (
    "folded",
    "passed_duplicate",
    "passed_dead",
    "passed_waiting",
    "passed_conflict",
    "passed_unknown",
    "passed_erased",
)
SUMS = ", ".join(f"{name} = l.{name} + NEW.{name}" for name in COUNTERS)
COUNTS = " OR ".join(f"NEW.{name} <> 0" for name in COUNTERS)
OF_LANE = """l.projection = NEW.projection AND l.generation = NEW.generation AND l.queue = NEW.queue
                  AND l.topic = NEW.topic AND l.partition = NEW.partition"""


def upgrade() -> None:
    """Moves the rows. Workers wait to write until the end of the transaction."""
    op.execute("LOCK TABLE sluice.generation_lanes IN SHARE ROW EXCLUSIVE MODE")
    op.execute(
        f"""
        CREATE TABLE sluice.generation_offsets (
            CONSTRAINT generation_offsets_pkey
                PRIMARY KEY (projection, generation, queue, topic, partition, applied_offset),
            CONSTRAINT generation_offsets_generation_fkey FOREIGN KEY (projection, generation)
                REFERENCES sluice.generations (projection, generation) ON DELETE CASCADE
        ) INHERITS (sluice.generation_lanes);
        INSERT INTO sluice.generation_offsets SELECT * FROM ONLY sluice.generation_lanes;
        DELETE FROM ONLY sluice.generation_lanes;
        CREATE FUNCTION sluice.pass_on_generation_lane() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            is_step boolean;
        BEGIN
            -- Without the lock, a chunk and a worker could both insert the first row of a lane.
            IF NOT EXISTS (SELECT FROM sluice.generation_offsets l WHERE {OF_LANE}) THEN
                PERFORM pg_advisory_xact_lock(hashtextextended(
                    'sluice lane ' || concat_ws(' ', NEW.projection, NEW.generation, NEW.queue, NEW.topic,
                                                NEW.partition), 0));
                INSERT INTO sluice.generation_offsets SELECT NEW.*
                WHERE NOT EXISTS (SELECT FROM sluice.generation_offsets l WHERE {OF_LANE});
                IF FOUND THEN
                    RETURN NULL;
                END IF;
            END IF;
            -- Only the previous version counts records here, and sets a retired generation to a later offset.
            -- Any other row is for a lane without a row.
            is_step := NEW.filled_xid IS NOT NULL OR {COUNTS};
            UPDATE sluice.generation_offsets l
            SET applied_offset = NEW.applied_offset, filled_xid = coalesce(NEW.filled_xid, l.filled_xid),
                {SUMS}
            WHERE {OF_LANE} AND (is_step OR l.applied_offset < NEW.applied_offset AND EXISTS (
                SELECT FROM sluice.generations g
                WHERE g.projection = NEW.projection AND g.generation = NEW.generation AND g.state = 'retired'
            ));
            RETURN NULL;
        END $$;
        CREATE TRIGGER pass_on BEFORE INSERT ON sluice.generation_lanes
            FOR EACH ROW EXECUTE FUNCTION sluice.pass_on_generation_lane()
        """
    )
