"""Projections: generations, how far each of them is, reports and checkpoints."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision: str | None = "0002"
branch_labels = None
depends_on = None

SCHEMA = "sluice"
STATES = ("building", "failed", "ready", "live", "retired")


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)


def _of_generation(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["projection", "generation"],
        [f"{SCHEMA}.generations.projection", f"{SCHEMA}.generations.generation"],
        name=op.f(f"{table}_generation_fkey"),
        ondelete="CASCADE",
    )


def _of_projection(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["projection"], [f"{SCHEMA}.projections.projection"], name=op.f(f"{table}_projection_fkey")
    )


def upgrade() -> None:
    """Makes them."""
    op.create_table(
        "projections",
        _text("projection"),
        sa.Column("live_generation", sa.Integer(), nullable=False),
        sa.Column("newest_generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("projection", name=op.f("projections_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "generations",
        _text("projection"),
        sa.Column("generation", sa.Integer(), nullable=False),
        _text("state"),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("has_been_live", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("rate", sa.Integer()),
        sa.Column("paced_until", sa.DateTime(timezone=True)),
        sa.Column("compacted_topics", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        _text("failed_reason", nullable=True),
        _now("created_at"),
        sa.Column("ready_at", sa.DateTime(timezone=True)),
        sa.Column("live_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            f"state IN ({', '.join(map(repr, STATES))})", name=op.f("generations_state_known")
        ),
        _of_projection("generations"),
        sa.PrimaryKeyConstraint("projection", "generation", name=op.f("generations_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "generation_lanes",
        _text("projection"),
        sa.Column("generation", sa.Integer(), nullable=False),
        _text("topic"),
        sa.Column("partition", sa.Integer(), nullable=False),
        _text("queue"),
        sa.Column("applied_offset", sa.BigInteger(), nullable=False),
        *map(
            _count,
            (
                "folded",
                "passed_duplicate",
                "passed_dead",
                "passed_waiting",
                "passed_conflict",
                "passed_unknown",
            ),
        ),
        _of_generation("generation_lanes"),
        sa.PrimaryKeyConstraint(
            "projection",
            "generation",
            "topic",
            "partition",
            "queue",
            name=op.f("generation_lanes_pkey"),
        ),
        schema=SCHEMA,
        postgresql_with={"fillfactor": "30"},
    )
    op.create_table(
        "generation_deaths",
        _text("projection"),
        sa.Column("generation", sa.Integer(), nullable=False),
        _text("topic"),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        _text("key", nullable=True),
        _text("error_class"),
        _text("error_text"),
        _now("died_at"),
        _of_generation("generation_deaths"),
        sa.PrimaryKeyConstraint(
            "projection",
            "generation",
            "topic",
            "partition",
            "offset",
            name=op.f("generation_deaths_pkey"),
        ),
        schema=SCHEMA,
    )
    op.create_table(
        "generation_reports",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _text("projection"),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("against", sa.Integer(), nullable=False),
        _now("made_at"),
        sa.Column("differing", sa.BigInteger(), nullable=False),
        sa.Column("report", postgresql.JSONB(), nullable=False),
        _text("approved_by", nullable=True),
        sa.Column("approved_at", sa.DateTime(timezone=True)),
        _of_generation("generation_reports"),
        sa.PrimaryKeyConstraint("id", name=op.f("generation_reports_pkey")),
        schema=SCHEMA,
    )
    op.create_table(
        "checkpoints",
        _text("checkpoint"),
        _text("projection"),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        _now("made_at"),
        sa.Column("lanes", postgresql.JSONB(), nullable=False),
        sa.Column("open_letters", postgresql.JSONB(), nullable=False),
        _of_projection("checkpoints"),
        sa.PrimaryKeyConstraint("checkpoint", name=op.f("checkpoints_pkey")),
        schema=SCHEMA,
    )
