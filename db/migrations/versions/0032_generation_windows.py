"""Failure windows of generations whose reads do not walk the versions that an old snapshot keeps.

Processes of the previous version continue with their own windows in `generation_failures`. So each version
judges only the events that it has tried itself.
"""

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Copies the windows."""
    op.execute(
        """
        CREATE TABLE sluice.generation_windows (
            projection text NOT NULL, generation integer NOT NULL, queue text NOT NULL, step bigint NOT NULL,
            failure_window text NOT NULL,
            CONSTRAINT generation_windows_pkey PRIMARY KEY (projection, generation, queue, step),
            CONSTRAINT generation_windows_generation_fkey FOREIGN KEY (projection, generation)
                REFERENCES sluice.generations (projection, generation) ON DELETE CASCADE
        );
        INSERT INTO sluice.generation_windows
            SELECT projection, generation, queue, 1, failure_window FROM sluice.generation_failures
        """
    )
