"""The rules of tables that a World does not simulate."""

from sqlalchemy import DDL, Boolean, Column, Enum, Index, Integer, MetaData, String, event
from sqlalchemy.dialects.postgresql import ExcludeConstraint

from sluice import entity_table
from sluice.testing.not_played import not_played


def test_indexes_and_triggers_are_listed_but_no_checks_that_come_from_column_types() -> None:
    metadata = MetaData()
    plain = entity_table(
        "plain",
        metadata,
        Column("id", String(8), primary_key=True),
        Column("mood", Enum("a", "b", native_enum=False, create_constraint=True)),
        Column("yes", Boolean(create_constraint=True, name="yes_or_no")),
    )
    ruled = entity_table(
        "ruled",
        metadata,
        Column("id", String(8), primary_key=True),
        Column("n", Integer),
        Index("one_n", "n", unique=True),
        Index("any_n", "n"),
        ExcludeConstraint(("n", "="), name="no_two"),
    )
    event.listen(ruled, "after_create", DDL("CREATE TRIGGER …"))  # type: ignore[no-untyped-call]
    assert not_played([ruled, plain]) == [
        "ruled: DDL that runs after the table is created, and that may make triggers",
        "ruled: EXCLUDE no_two",
        "ruled: UNIQUE INDEX one_n",
    ]
