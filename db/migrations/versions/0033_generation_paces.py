"""The pace of a rebuild in a table of its own, because each batch reads the rows of `generations`.

Processes of the previous version continue with `generations.paced_until`.
"""

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table. The pace of each generation begins with its next chunk."""
    op.execute(
        """
        CREATE TABLE sluice.generation_paces (
            projection text NOT NULL, generation integer NOT NULL, paced_until timestamptz NOT NULL,
            CONSTRAINT generation_paces_pkey PRIMARY KEY (projection, generation, paced_until),
            CONSTRAINT generation_paces_generation_fkey FOREIGN KEY (projection, generation)
                REFERENCES sluice.generations (projection, generation) ON DELETE CASCADE
        )
        """
    )
