"""Finds the users' tables that hold rows of an entity, and deletes these rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sluice.admin.decisions import OperationRefused
from sluice.db.admin import erasing
from sluice.db.connection import Session
from sluice.db.projections.checkpoints import read_checkpoints
from sluice.db.projections.generation_tables import read_left_over
from sluice.db.projections.generations import read_generations
from sluice.db.tables import is_projection, shape_of
from sluice.tasks.fold.registry import Registry


@dataclass
class ErasedTables:
    """The tables whose rows of the key are deleted, and sentences on the tables that are not searched."""

    columns: dict[str, str] = field(default_factory=dict)
    """Table in Postgres → its key column."""
    projections: list[str] = field(default_factory=list)
    """The projections of which all generations and checkpoints are among the tables."""
    not_searched: list[str] = field(default_factory=list)


def choose_tables(
    session: Session, registry: Registry, entity: str, key: str, further: Sequence[str]
) -> ErasedTables:
    """Returns the tables in which each event of the entity type writes only the row with the key of
    that event, and the `further` tables.

    Each batch stores which tables it wrote, because the code of the handlers is not analysed. Raises
    OperationRefused for a further table that no module declares.
    """
    for name in further:
        if name not in registry.tables:
            known = ", ".join(sorted(registry.tables))
            raise OperationRefused(f"table {name} is declared by no module; the declared tables are: {known}")
    noted = erasing.read_entity_tables(session)
    mine = {table: otherwise for one, table, otherwise in noted if one == entity}
    others: dict[str, list[str]] = {}
    for one, table, _ in noted:
        if one != entity:
            others.setdefault(table, []).append(one)
    found = ErasedTables()
    for name in [*_children_first(registry), *sorted(mine.keys() - registry.tables)]:
        if name not in registry.tables:
            found.not_searched.append(
                f"table {name}: events of {entity} wrote it, but no module declares it any more"
            )
        elif name in further or mine.get(name) is False:
            _add(session, registry, name, found)
            if name in others:
                found.not_searched.append(
                    f"table {name}: its rows of this key are deleted, and events of"
                    f" {', '.join(others[name])} may write them again"
                )
        elif mine.get(name):
            found.not_searched.append(
                f"table {name}: events of {entity} write rows with other keys than their own"
                + _hint(session, registry, name, key)
            )
        elif hint := _hint(session, registry, name, key):
            found.not_searched.append(f"table {name}: no event of {entity} is known to have written it{hint}")
    return found


_CHECK = "SET CONSTRAINTS ALL IMMEDIATE"  # so that this statement fails and not COMMIT


def delete_rows(session: Session, tables: ErasedTables, key: str) -> Iterable[tuple[str, int]]:
    """Deletes the rows of the key; yields table and row count. Raises OperationRefused if a row stays."""
    for table, column in tables.columns.items():
        yield table, erasing.delete_rows_of(session, table, column, key)
        if erasing.has_row(session, table, column, key):
            raise OperationRefused(
                f"table {table} keeps its row of this key: a trigger or a rule suppressed the deletion;"
                " nothing was erased; disable the trigger or the rule, and run the command again"
            )
    session.command(_CHECK)
    yield "tombstones", erasing.delete_tombstones_of(session, list(tables.columns), key)


def _children_first(registry: Registry) -> list[str]:
    """Returns the names of the declared tables, each before the tables that it references."""
    in_order = [table for metadata in registry.metadatas for table in metadata.sorted_tables]
    rank = {table.name: -number for number, table in enumerate(in_order)}
    return sorted(registry.tables, key=lambda name: (rank.get(name, 0), name))


def _add(session: Session, registry: Registry, name: str, found: ErasedTables) -> None:
    table = registry.tables[name]
    column = shape_of(table).key
    stored = [name]
    if is_projection(table):
        found.projections.append(name)
        stored = [one.table for one in read_generations(session, name)]
        stored += [one.table for one in read_checkpoints(session, name)]
        stored += read_left_over(session, name)
    for one in stored:
        if erasing.table_exists(session, one):
            found.columns[one] = column


def _hint(session: Session, registry: Registry, name: str, key: str) -> str:
    """Returns how to delete the row of this key in a table; empty if the table has none."""
    column = shape_of(registry.tables[name]).key
    if not erasing.table_exists(session, name) or not erasing.has_row(session, name, column, key):
        return ""
    return f"; it has a row of this key; pass `--table {name}` to delete it"
