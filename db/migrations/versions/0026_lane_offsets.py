"""Lanes and failure windows whose reads do not walk the versions that an old snapshot keeps.

The only index of each table ends with the value that increases. Processes of the previous version continue to
use `lane_progress`, which is empty from now on: they read the rows of `lane_offsets` because it inherits from
`lane_progress`, and a trigger passes their inserted rows on.
"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

COUNTERS = (
    "applied",
    "duplicate",
    "stale",
    "conflict",
    "waiting",
    "dead",
    "ignored",
    "call_conflict",
    "without_id",
    "erased",
)
SUMS = ", ".join(f"{name} = l.{name} + NEW.{name}" for name in COUNTERS)


def upgrade() -> None:
    """Moves the lanes and copies the windows. Workers wait to write until the end of the transaction."""
    # Readers continue. A reader with an older snapshot still finds the rows in `lane_progress`.
    op.execute("LOCK TABLE sluice.lane_progress IN SHARE ROW EXCLUSIVE MODE")
    op.execute(
        f"""
        CREATE TABLE sluice.lane_offsets (
            CONSTRAINT lane_offsets_pkey PRIMARY KEY (queue, epoch, topic, partition, applied_offset)
        ) INHERITS (sluice.lane_progress);
        INSERT INTO sluice.lane_offsets SELECT * FROM ONLY sluice.lane_progress;
        DELETE FROM ONLY sluice.lane_progress;
        CREATE FUNCTION sluice.pass_on_lane() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            -- An offset from a watermark may be lower than that of the lane.
            UPDATE sluice.lane_offsets l
            SET applied_offset = greatest(l.applied_offset, NEW.applied_offset), {SUMS}
            WHERE l.queue = NEW.queue AND l.epoch = NEW.epoch AND l.topic = NEW.topic
              AND l.partition = NEW.partition;
            IF NOT FOUND THEN
                INSERT INTO sluice.lane_offsets VALUES (NEW.*);
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER pass_on BEFORE INSERT ON sluice.lane_progress
            FOR EACH ROW EXECUTE FUNCTION sluice.pass_on_lane();
        CREATE TABLE sluice.failure_windows (
            queue text NOT NULL, step bigint NOT NULL, failure_window text NOT NULL,
            CONSTRAINT failure_windows_pkey PRIMARY KEY (queue, step),
            CONSTRAINT failure_windows_failure_window_bounded CHECK (length(failure_window) <= 200)
        );
        INSERT INTO sluice.failure_windows
            SELECT queue, 1, failure_window FROM sluice.queues WHERE failure_window <> ''
        """
    )
