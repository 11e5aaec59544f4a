"""The format of calls."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column with a default, so that older processes continue to write rows."""
    op.execute("ALTER TABLE sluice.executed_side_effects ADD COLUMN format smallint DEFAULT 1 NOT NULL")
    op.execute(
        "CREATE INDEX executed_side_effects_newer_idx ON sluice.executed_side_effects (state)"
        " WHERE format > 1"
    )
    op.execute(
        "CREATE INDEX executed_side_effects_waiting_idx ON sluice.executed_side_effects"
        " (effect, due_at, id)"
        " WHERE state = 'pending'"
    )
