"""An index of the running calls by entity.

The index by claim has an entry for each call that ended since an old snapshot began.
"""

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the index. Batches with calls wait until the table is read once."""
    op.execute(
        "CREATE INDEX executed_side_effects_running_idx ON sluice.executed_side_effects"
        " (entity, entity_key, effect) WHERE state = 'running'"
    )
