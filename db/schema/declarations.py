"""What all tables of Sluice are declared with: the schema, names of constraints, states."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    MetaData,
    func,
)

SCHEMA = "sluice"

OUTCOMES = ("applied", "duplicate", "stale", "conflict", "waiting", "dead", "ignored")
EFFECT_STATES = ("pending", "running", "succeeded", "failed", "uncertain")
GENERATION_STATES = ("building", "failed", "ready", "live", "retired")
DEAD_LETTER_STATES = ("dead", "waiting", "dropped", "done")

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
    },
)


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """The column holds one of these; the constraint's name says so."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(v) for v in values)})", name=f"{column}_known")


def now_column(name: str) -> Column[object]:
    """A time of Postgres's own, that of the transaction that adds the row."""
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())
