"""What is open can be counted without walking over what is done."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels = None
depends_on = None

SCHEMA = "sluice"


def upgrade() -> None:
    """Makes two partial indexes."""
    op.create_index(
        "dead_letters_open_idx",
        "dead_letters",
        ["state", "outcome"],
        schema=SCHEMA,
        postgresql_where=sa.text("state IN ('dead', 'waiting')"),
    )
    op.create_index(
        "executed_side_effects_ended_idx",
        "executed_side_effects",
        ["state"],
        schema=SCHEMA,
        postgresql_where=sa.text("state IN ('failed', 'uncertain')"),
    )
