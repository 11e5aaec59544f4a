"""Erased entities, the tables with an entity's rows, and a counter of records that are passed over."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the tables, and a counter that older workers do not change."""
    op.execute(
        """
        CREATE TABLE sluice.erasure_key (
            is_only boolean DEFAULT true NOT NULL, key bytea NOT NULL,
            CONSTRAINT erasure_key_pkey PRIMARY KEY (is_only),
            CONSTRAINT erasure_key_one_row CHECK (is_only),
            CONSTRAINT erasure_key_key_length CHECK (length(key) = 32)
        );
        CREATE TABLE sluice.erasures (
            id bigint GENERATED ALWAYS AS IDENTITY, entity text NOT NULL, key_hash uuid NOT NULL,
            erased_at timestamptz DEFAULT clock_timestamp() NOT NULL, log_ends jsonb NOT NULL,
            CONSTRAINT erasures_pkey PRIMARY KEY (id)
        );
        CREATE INDEX erasures_key_idx ON sluice.erasures (entity, key_hash);
        CREATE TABLE sluice.entity_tables (
            entity text NOT NULL, table_name text NOT NULL, keyed_otherwise boolean NOT NULL,
            CONSTRAINT entity_tables_pkey PRIMARY KEY (entity, table_name)
        );
        ALTER TABLE sluice.lane_progress ADD COLUMN erased bigint DEFAULT 0 NOT NULL;
        """
    )
