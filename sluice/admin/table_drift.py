"""Compares users' tables in Postgres with their declarations. Pure.

`unfilled` are projections that no handler of this command fills. Only a rebuild by other handlers
can create the table of such a projection again, so findings about it are notes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any

from sqlalchemy import Column, Table, literal
from sqlalchemy.exc import CompileError
from sqlalchemy.schema import CreateColumn

from sluice.admin.column_drift import Difference, column_differences, is_same_family, rendered_type
from sluice.admin.doctor.findings import Finding, error, graded, note, warning
from sluice.db.admin.stored_tables import StoredColumn, StoredTable
from sluice.db.identifiers import USERS_SCHEMA, qualified, quoted
from sluice.db.projections.generation_tables import view_text
from sluice.db.table_rules import DIALECT
from sluice.db.tables import BOOKKEEPING, is_projection, shape_of
from sluice.runtime.schema_name import DEFAULT_SCHEMA

_AFTER_A_NEW_VIEW = " and give the view its grants, options, comments and triggers again"


def missing_findings(
    declared: Mapping[str, Set[str]],
    stored: Mapping[str, Set[str]],
    misplaced: Iterable[str],
    unfilled: Set[str] = frozenset(),
    tables: Iterable[Table] = (),
    stored_tables: Mapping[str, StoredTable] = MappingProxyType({}),
    schema: str = DEFAULT_SCHEMA,
) -> Iterator[Finding]:
    """Yields declared tables and columns that Postgres lacks.

    `declared` and `stored` are table → its columns. A table of the same name as one in `misplaced` is in
    Sluice's own `schema`. For a table in `tables` the finding has the statement that adds the columns.
    """
    known = {table.name: table for table in tables}
    for table in sorted(misplaced):
        yield misplaced_finding(table, schema, is_missing=table not in stored)
    for table, columns in sorted(declared.items()):
        if table not in stored and table in misplaced:
            continue
        if table not in stored:
            is_made_once = table in known and is_projection(known[table])
            yield error(
                f"Table {table} is missing in schema public.",
                "Run `sluice init`. If the table was dropped, restore it: docs/rebuilding.md describes how."
                if is_made_once
                else "Run `sluice init`, or restore it.",
            )
        elif lacking := sorted(columns - stored[table]):
            yield graded(
                table not in unfilled,
                f"Table {table} lacks {', '.join(lacking)}.",
                _how_to_add(known.get(table), stored_tables.get(table), lacking),
            )


def _how_to_add(table: Table | None, stored: StoredTable | None, lacking: Sequence[str]) -> str:
    """Returns the statement that adds the columns, and how to run it."""
    if table is None or stored is None or (stored.kind != "table" and stored.generation is None):
        return "Add these columns with ALTER TABLE: `sluice init` creates tables and never changes one."
    added = [
        column for column in table.columns if column.name in lacking and column.name not in stored.columns
    ]
    definitions = {column: _definition(column) for column in added}
    parts = ", ".join(f"ADD COLUMN {definition}" for definition in definitions.values())
    statement = f"ALTER TABLE {qualified(stored.name)} {parts};" if parts else ""
    if stored.generation is not None:
        statement = _with_new_view(table, stored.generation, statement)
    again = _AFTER_A_NEW_VIEW if stored.generation is not None else ""
    unfilled = [column.name for column, text in definitions.items() if text.endswith(" NOT NULL")]
    value = (
        f" If the table has rows, write DEFAULT and their value after the NOT NULL of {unfilled[0]}."
        if unfilled
        else ""
    )
    return f"Run `{statement}`{again}, for example in `sluice stack psql`.{value}"


def _definition(column: Column[Any]) -> str:
    """Returns name, type and NOT NULL. A column that is NOT NULL also gets its declared default, for rows."""
    made = str(CreateColumn(column).compile(dialect=DIALECT))
    default: Any = column.default
    if column.nullable or default is None or not default.is_scalar:
        return made
    value = literal(default.arg, column.type)
    try:
        text = value.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True})
    except (CompileError, NotImplementedError):  # a type without literals
        return made
    return f"{made} DEFAULT {text}"


def misplaced_finding(table: str, schema: str, *, is_missing: bool) -> Finding:
    """Returns the finding about a users' table that is in Sluice's own schema: only there, or also
    in the users' schema.
    """
    here = f"{schema}.{quoted(table)}"
    path = (
        f" A role with the name {schema} creates its tables in that schema: if your role has this name,"
        " also run"
        f" `ALTER ROLE {schema} SET search_path = {USERS_SCHEMA};`."
    )
    if not is_missing:
        return warning(
            f"Table {table} is in schema {USERS_SCHEMA} and also in schema {schema}, which is Sluice's own:"
            f" no handler uses {here}.",
            f"Copy the rows that you need to {qualified(table)}, and run `DROP TABLE {here};`.{path}",
        )
    return error(
        f"Table {table} is in schema {schema}, which is Sluice's own: no handler can use it.",
        f"Run `ALTER TABLE {here} SET SCHEMA {USERS_SCHEMA};`.{path}",
    )


def drift_findings(
    tables: Iterable[Table], stored: Mapping[str, StoredTable], unfilled: Set[str] = frozenset()
) -> Iterator[Finding]:
    """Yields the differences, table by table. `stored` has the names of the declared tables as keys.

    Does not check tables and columns that Postgres lacks, nor the user's constraints, triggers and indexes.
    """
    for table in sorted(tables, key=lambda table: table.name):
        # A projection without a live generation has no table, but it may have its view.
        if table.name in stored and is_projection(table) == (stored[table.name].generation is not None):
            for found in _table_findings(table, stored[table.name]):
                yield note(found.problem, found.advice) if table.name in unfilled else found


def _table_findings(table: Table, stored: StoredTable) -> Iterator[Finding]:
    name = stored.name
    if not stored.is_writable:
        yield error(
            f"Table {table.name} is a {stored.kind} in Postgres, which cannot be written like a table.",
            "Rename it in Postgres, or rename the table in code; then `sluice init` creates the table.",
        )
        return
    if not stored.is_logged:
        yield error(
            f"Table {name} is UNLOGGED: a crash of Postgres empties the table, and its events are not"
            " applied again.",
            f"Run `ALTER TABLE {qualified(name)} SET LOGGED;`.",
        )
    key = shape_of(table).key
    if stored.kind == "table" and key in stored.columns and key not in stored.unique:
        yield error(
            f"Table {name} has no unique index on its key {key}: no row can be added.",
            f"Run `ALTER TABLE {qualified(name)} ADD PRIMARY KEY ({quoted(key)});`.",
        )
    yield from _column_findings(table, stored)
    for other, found in sorted(stored.columns.items()):
        if other not in table.columns and found.not_null and not (found.has_default or found.generated):
            yield error(
                f"Column {name}.{other} is not declared, has no default and is NOT NULL in Postgres: no row"
                " can be added.",
                f"Run `{_alter(name, other)} DROP NOT NULL;`, give the column a default, or declare the"
                " column.",
            )


def _column_findings(table: Table, stored: StoredTable) -> Iterator[Finding]:
    name, is_view = stored.name, stored.kind == "view"
    for column in table.columns:
        if (found := stored.columns.get(column.name)) is None:
            continue
        for difference in column_differences(column, found, is_view=is_view):
            make = error if difference.loses else warning
            declare = "" if column.name in BOOKKEEPING else ", or change the declaration to what Postgres has"
            change = "Change the table under the view"
            if not is_view:
                mend = _mend(stored, column, difference)
                change = f"Run `{mend}`{_AFTER_A_NEW_VIEW if 'DROP VIEW' in mend else ''}"
            yield make(
                f"Column {name}.{column.name} is declared {_declared(column)} and is {_stored(found)} in"
                f" Postgres: {difference.consequence}.",
                f"{change}{declare}.",
            )


def _declared(column: Column[Any]) -> str:
    return rendered_type(column) + ("" if column.nullable else " NOT NULL")


def _stored(column: StoredColumn) -> str:
    return column.shown + (" NOT NULL" if column.not_null else "")


def _alter(name: str, column: str) -> str:
    return f"ALTER TABLE {qualified(name)} ALTER COLUMN {quoted(column)}"


def _mend(table: StoredTable, column: Column[Any], difference: Difference) -> str:
    """Returns the statements that change the column to the declared column."""
    stored = table.columns[column.name]
    if difference.missing_labels:
        labels = [label.replace("'", "''") for label in difference.missing_labels]
        return " ".join(f"ALTER TYPE {stored.shown} ADD VALUE '{label}';" for label in labels)
    if difference.change is not None:
        return f"{_alter(table.name, column.name)} {difference.change};"
    value, rendered = quoted(column.name), rendered_type(column)
    plain = rendered.partition(" COLLATE ")[0]
    if stored.type == "timestamp without time zone" and plain.startswith("TIMESTAMP"):
        value = f"{value} AT TIME ZONE 'UTC'"
    else:
        value = f"{value}::{plain}" if is_same_family(column, stored) else f"{value}::text::{plain}"
    statement = f"{_alter(table.name, column.name)} TYPE {rendered} USING {value};"
    if table.generation is None:
        return statement
    # Postgres does not change the type of a column that a view uses.
    return _with_new_view(column.table, table.generation, statement)


def _with_new_view(projection: Table, generation: int, statement: str) -> str:
    """Returns statements that run `statement` and make the view of the projection again."""
    view = view_text(projection.name, [one.name for one in projection.columns], generation)
    return f"BEGIN; DROP VIEW {qualified(projection.name)}; {statement} {view}; COMMIT;"
