"""What all tables of Sluice are declared with: the schema, names of constraints, columns of one kind."""

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    MetaData,
    SmallInteger,
    func,
    text,
)

from sluice.db.records import Outcome

SCHEMA = "sluice"

OUTCOMES = tuple(outcome.value for outcome in Outcome)
"""The columns of `lane_progress` that count records."""

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


def one_of(column: str, states: Iterable[StrEnum]) -> CheckConstraint:
    """Returns the constraint that the column holds one of these states."""
    values = ", ".join(f"'{state}'" for state in states)
    return CheckConstraint(f"{column} IN ({values})", name=f"{column}_known")


def now_column(name: str) -> Column[object]:
    """A time of Postgres's own, that of the transaction that adds the row."""
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


def moment_column(name: str) -> Column[object]:
    """A time of Postgres's own, that at which the row is added: a transaction may wait for a lock before."""
    return Column(name, DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))


def format_column() -> Column[object]:
    """The version of the row's form. A process leaves rows of a newer form than it reads."""
    return Column("format", SmallInteger, nullable=False, server_default=text("1"))
