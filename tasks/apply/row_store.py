"""Loads the rows that a fold needs from Postgres, and writes back the changed rows."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from sqlalchemy import Table

from sluice.db.apply import rows
from sluice.db.connection import Session
from sluice.db.errors import DeploymentBroken
from sluice.db.tables import FIELD_VERSIONS, INSERTED_HASH, VERSION, generation_name, shape_of
from sluice.tasks.fold.plan import Planned, touched_rows
from sluice.tasks.fold.versioned_row import Row

KEY_LOCKS = 256  # per table and transaction; the server's lock table has room for some thousands


class AbsentKeyLocks:
    """Locks keys that have no row, for one transaction: few keys one by one, many by a lock on the table."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        """Number of locks per table. A rollback to a savepoint releases locks that were taken after it."""

    def take(self, session: Session, table: str, keys: Sequence[str]) -> None:
        """Locks the keys of a table until the transaction ends."""
        held = self.held.get(table, 0)
        if held > KEY_LOCKS:
            return
        self.held[table] = held + len(keys)
        if held + len(keys) > KEY_LOCKS:
            rows.lock_all_keys(session, table)
        else:
            rows.lock_absent_keys(session, table, keys)


class RowStore:
    """The rows of one fold: `load`, then `load_row` during the fold, then `write`, in one transaction."""

    def __init__(
        self, session: Session, generations: Mapping[str, int], locks: AbsentKeyLocks | None = None
    ) -> None:
        """`generations`: projection → the generation to use. `locks`: the key locks of the transaction."""
        self.written_tables: set[str] = set()
        self.changed_tables: set[Table] = set()
        self._session = session
        self._locks = locks or AbsentKeyLocks()
        self._generations = generations
        self._statements: dict[Table, rows.RowStatements] = {}
        self._loaded: dict[tuple[Table, str], Row] = {}

    def load(self, events: Iterable[Planned], left: Set[str] = frozenset()) -> dict[tuple[Table, str], Row]:
        """Loads and locks the rows that these events are known to need. Locks absent keys too.

        Rows of the projections in `left` are omitted.
        """
        self._loaded = {}
        keys: defaultdict[Table, set[str]] = defaultdict(set)
        for planned in events:
            for table, key in touched_rows(planned, left):
                keys[table].add(key)
        for table in sorted(keys, key=lambda table: table.name):
            self._load_table(table, sorted(keys[table]))
        return dict(self._loaded)

    def load_row(self, table: Table, key: str) -> Row:
        """Loads and locks a row that `load` did not foresee."""
        return self._load_table(table, [key])[table, key]

    def write(self, wanted: Mapping[tuple[Table, str], Row]) -> None:
        """Writes the rows that the fold changed. Raises RowsChanged and errors of Postgres."""
        changed: defaultdict[Table, dict[str, Row]] = defaultdict(dict)
        for (table, key), row in wanted.items():
            if row is not self._loaded[table, key]:
                changed[table][key] = row
        self.changed_tables |= changed.keys()
        for table in sorted(changed, key=lambda table: table.name):
            self._write_table(table, changed[table])

    def _statements_of(self, table: Table) -> rows.RowStatements:
        known = self._statements.get(table)
        if known is None:
            known = rows.RowStatements(table, self._stored_as(table))
            self._statements[table] = known
        return known

    def _stored_as(self, table: Table) -> str | None:
        if not shape_of(table).projection:
            return None
        if table.name not in self._generations:
            raise DeploymentBroken(f"projection {table.name} has no row: run `sluice init`")
        return generation_name(table.name, self._generations[table.name])

    def _load_table(self, table: Table, keys: Sequence[str]) -> dict[tuple[Table, str], Row]:
        statements = self._statements_of(table)
        shape = shape_of(table)
        found = {row[shape.key]: row for row in rows.load_rows(self._session, statements, keys)}
        tombstones: dict[str, int] = {}
        if shape.deletable:
            absent = [key for key in keys if key not in found]
            if absent:
                self._locks.take(self._session, statements.name, absent)
                found |= {row[shape.key]: row for row in rows.load_rows(self._session, statements, absent)}
            tombstones = rows.load_tombstones(self._session, statements.name, keys)
        loaded = {(table, key): _row(table, found.get(key), tombstones.get(key)) for key in keys}
        self._loaded.update(loaded)
        return loaded

    def _write_table(self, table: Table, changed: dict[str, Row]) -> None:
        statements = self._statements_of(table)
        gone: list[str] = []
        updated: list[rows.Document] = []
        inserted: list[rows.Document] = []
        tombstones: dict[str, int] = {}
        for key, row in sorted(changed.items()):
            before = self._loaded[table, key]
            if row.tombstone is not None and row.tombstone != before.tombstone:
                tombstones[key] = row.tombstone
            if row.values is None:
                if before.values is not None:
                    gone.append(key)
            else:
                (inserted if before.values is None else updated).append(_document(table, key, row))
        if gone:
            rows.delete_rows(self._session, statements, gone)
        if updated:
            rows.update_rows(self._session, statements, updated)
        if inserted:
            rows.insert_rows(self._session, statements, inserted)
        rows.write_tombstones(self._session, statements.name, tombstones)
        if gone or updated or inserted:
            self.written_tables.add(statements.name)


def _row(table: Table, loaded: dict[str, Any] | None, tombstone: int | None) -> Row:
    if loaded is None:
        return Row(tombstone=tombstone)
    values = {name: rows.readable(loaded[name]) for name in shape_of(table).row_columns}
    return Row(values, loaded[VERSION], loaded.get(FIELD_VERSIONS) or {}, loaded[INSERTED_HASH], tombstone)


def _document(table: Table, key: str, row: Row) -> rows.Document:
    bookkeeping = {
        VERSION: row.version,
        INSERTED_HASH: row.inserted_hash,
        FIELD_VERSIONS: row.field_versions or None,
    }
    return rows.document(table, key, row.values or {}, bookkeeping)
