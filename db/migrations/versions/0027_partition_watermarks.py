"""Watermarks whose reads do not walk the versions that an old snapshot keeps.

As in migration 0026, processes of the previous version continue to use `partition_progress`.
"""

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Moves the rows. Bridges wait to write until the end of the transaction."""
    op.execute("LOCK TABLE sluice.partition_progress IN SHARE ROW EXCLUSIVE MODE")
    op.execute(
        """
        CREATE TABLE sluice.partition_watermarks (
            CONSTRAINT partition_watermarks_pkey PRIMARY KEY (topic, partition, epoch, watermark)
        ) INHERITS (sluice.partition_progress);
        INSERT INTO sluice.partition_watermarks SELECT * FROM ONLY sluice.partition_progress;
        DELETE FROM ONLY sluice.partition_progress;
        CREATE FUNCTION sluice.pass_on_partition() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            is_restarted boolean;
        BEGIN
            -- A topic is accepted in one transaction, which raises the epochs of all partitions and then sets
            -- the new watermarks. A bridge only inserts a missing row, and must not lower a watermark.
            SELECT w.xmin = pg_current_xact_id()::xid INTO is_restarted FROM sluice.partition_watermarks w
            WHERE w.topic = NEW.topic AND w.partition = NEW.partition;
            IF NOT FOUND THEN
                INSERT INTO sluice.partition_watermarks VALUES (NEW.*);
            ELSIF is_restarted THEN
                UPDATE sluice.partition_watermarks w SET epoch = NEW.epoch, watermark = NEW.watermark
                WHERE w.topic = NEW.topic AND w.partition = NEW.partition;
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER pass_on BEFORE INSERT ON sluice.partition_progress
            FOR EACH ROW EXECUTE FUNCTION sluice.pass_on_partition()
        """
    )
