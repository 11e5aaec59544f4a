"""Lists what fails on servers and not in a world in memory: rules of tables, missing topics. Pure."""

from collections.abc import Collection, Iterable, Iterator

from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects.postgresql import ExcludeConstraint


def not_played(tables: Iterable[Table]) -> list[str]:
    """Returns a line for each declared rule of these tables that only Postgres checks, by table."""
    return [
        f"{table.name}: {rule}"
        for table in sorted(tables, key=lambda table: table.name)
        for rule in sorted(_rules(table))
    ]


def undeclared_topics(emitted: Iterable[str], declared: Collection[str]) -> list[str]:
    """Returns a line for each topic of outgoing events that no module declares."""
    return [
        f"Emit to topic {name}: no module declares it in outgoing_topics, so `sluice init` does not create"
        " the topic, and the relay holds the events back until it exists"
        for name in sorted(set(emitted) - set(declared))
    ]


def _rules(table: Table) -> Iterator[str]:
    for constraint in (*table.constraints, *(one for column in table.columns for one in column.constraints)):
        match constraint:
            # SQLAlchemy adds such a CHECK for the values of a type. The world checks these values itself.
            case CheckConstraint() if not getattr(constraint, "_type_bound", False):
                yield f"CHECK ({constraint.sqltext})"
            case UniqueConstraint():
                yield f"UNIQUE ({_names(constraint.columns)})"
            case ForeignKeyConstraint():
                targets = ", ".join(element.target_fullname for element in constraint.elements)
                yield f"FOREIGN KEY ({_names(constraint.columns)}) to {targets}"
            case ExcludeConstraint():
                yield f"EXCLUDE {constraint.name or ''}".rstrip()
            case _:
                pass
    for index in table.indexes:
        if index.unique:
            yield f"UNIQUE INDEX {index.name}"
    if table.dispatch.after_create:
        yield "DDL that runs after the table is created, and that may make triggers"


def _names(columns: Iterable[Column[object]]) -> str:
    return ", ".join(column.name for column in columns)
