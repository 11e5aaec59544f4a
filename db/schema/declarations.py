"""Common declarations of Sluice's tables: the schema, names of constraints, kinds of columns."""

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

from sluice.db.advisory_locks import WRITTEN
from sluice.db.records import Outcome

SCHEMA = WRITTEN
VERSION_TABLE = "alembic_version"

OUTCOMES = tuple(outcome.value for outcome in Outcome)
"""The columns of `lane_offsets` that count records."""

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
    """Returns a constraint: the column must contain one of these states."""
    values = ", ".join(f"'{state}'" for state in states)
    return CheckConstraint(f"{column} IN ({values})", name=f"{column}_known")


def now_column(name: str) -> Column[object]:
    """Returns a column with the start time of the transaction that adds the row."""
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


def moment_column(name: str) -> Column[object]:
    """Returns a column with the time when the row is added.

    This is later than the start of the transaction if the transaction waited for a lock.
    """
    return Column(name, DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))


def format_column() -> Column[object]:
    """Returns a column with the format of the row. A process does not use rows of a newer format."""
    return Column("format", SmallInteger, nullable=False, server_default=text("1"))
