"""The partitions that bridges read, and the problems that prevent reading."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the table."""
    op.execute(
        """
        CREATE TABLE sluice.partition_reads (
            topic text NOT NULL, partition integer NOT NULL,
            noted_at timestamptz DEFAULT now() NOT NULL, reported_at timestamptz DEFAULT now() NOT NULL,
            read_at timestamptz, reader uuid,
            problem text CONSTRAINT partition_reads_problem_known CHECK (problem IN
                ('kafka_error', 'no_leader', 'not_authorized', 'unreadable_record', 'stopped')),
            detail text, problem_offset bigint, problem_since timestamptz,
            CONSTRAINT partition_reads_pkey PRIMARY KEY (topic, partition)
        ) WITH (fillfactor = '50')
        """
    )
