"""Locks and loads users' rows by key, and writes them back as one JSON document per table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import msgspec
from sqlalchemy import Table

from sluice.db.connection import Session, Statement
from sluice.db.errors import RowsChanged, WriteSuppressed
from sluice.db.identifiers import qualified, quoted
from sluice.db.tables import FIELD_VERSIONS, INSERTED_HASH, VERSION, shape_of
from sluice.db.values import bare_array, in_pieces, text_array

Document = Mapping[str, Any]
"""One row as column → value."""


@dataclass(frozen=True)
class RowStatements:
    """The statements of one declared table. Names are quoted, and values are parameters.

    For a projection, `stored_as` is the table of the generation that holds the rows.
    """

    table: Table
    stored_as: str | None = None

    @property
    def name(self) -> str:
        """Returns the name of the table that holds the rows, unquoted."""
        return self.stored_as or self.table.name

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Returns all columns in declared order, which is the order of a loaded row."""
        return tuple(column.name for column in self.table.columns)

    @cached_property
    def target(self) -> str:
        """Returns the quoted name of the table."""
        return qualified(self.name)

    @cached_property
    def key(self) -> str:
        """Returns the quoted key column."""
        return str(quoted(shape_of(self.table).key))

    @cached_property
    def load(self) -> Statement:
        """Locks and reads rows by key.

        Rows are locked in key order, so that two transactions cannot deadlock.
        """
        columns = ", ".join(quoted(name) for name in self.columns)
        return self._named(
            "load",
            f"SELECT {columns} FROM {self.target} WHERE {self.key} = ANY ($1) ORDER BY {self.key} FOR UPDATE",
            ("text[]",),
        )

    @cached_property
    def update(self) -> Statement:
        """Rewrites changed rows. The keys are passed a second time, which gives an index scan."""
        names = [quoted(name) for name in self.columns if quoted(name) != self.key]
        return self._named(
            "update",
            f"""
            UPDATE {self.target} t SET {", ".join(f"{name} = d.{name}" for name in names)}
            FROM json_populate_recordset(NULL::{self.target}, $1) d
            WHERE t.{self.key} = d.{self.key} AND t.{self.key} = ANY ($2)
            """,
            ("json", "text[]"),
        )

    @cached_property
    def insert(self) -> Statement:
        """Adds rows that were absent.

        Only a conflict of the key is ignored. A conflict of another unique index raises an error.
        """
        names = ", ".join(quoted(name) for name in self.columns)
        return self._named(
            "insert",
            f"""
            INSERT INTO {self.target} ({names})
            SELECT {names} FROM json_populate_recordset(NULL::{self.target}, $1)
            ON CONFLICT ({self.key}) DO NOTHING
            """,
            ("json",),
        )

    @cached_property
    def delete(self) -> Statement:
        """Removes rows by key."""
        return self._named("delete", f"DELETE FROM {self.target} WHERE {self.key} = ANY ($1)", ("text[]",))

    def _named(self, verb: str, text: str, types: tuple[str, ...]) -> Statement:
        return named_statement(self.name, verb, text, types)


def named_statement(table: str, verb: str, text: str, types: tuple[str, ...]) -> Statement:
    """Returns a statement of one table, with a name of its own."""
    # Postgres cuts names at 63 bytes. The hash keeps two tables with long names from sharing a statement.
    name = table.encode()
    mark = blake2b(name, digest_size=6).hexdigest()
    return Statement(f"{verb}_{name[:32].decode(errors='ignore')}_{mark}", text, types)


def load_rows(session: Session, statements: RowStatements, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Locks and returns the rows of these keys, as column → value. Omits absent rows."""
    loaded: list[dict[str, Any]] = []
    for piece in in_pieces(keys):
        for row in session.run(statements.load, text_array(piece)):
            loaded.append(dict(zip(statements.columns, row, strict=True)))
    return loaded


def read_version(session: Session, statements: RowStatements, key: str) -> tuple[bool, int | None]:
    """Returns two values: True if the row exists, and its version.

    Takes no lock, so both may be outdated.
    """
    text = f"SELECT {VERSION} FROM {statements.target} WHERE {statements.key} = $1"
    rows = session.run(Statement(f"version_{statements.load.name}", text, ("text",)), key)
    return bool(rows), rows[0][0] if rows else None


def read_all_rows(session: Session, statements: RowStatements) -> list[tuple[str, dict[str, Any]]]:
    """Returns (key, row without Sluice's own columns) for all rows.

    Only for checkers, because it reads all rows.
    """
    shape = shape_of(statements.table)
    names = [shape.key, *shape.row_columns]
    columns = ", ".join(quoted(name) for name in names)
    text = f"SELECT {columns} FROM {statements.target} ORDER BY {statements.key}"
    rows = session.run(Statement(f"all_{blake2b(text.encode(), digest_size=16).hexdigest()}", text))
    return [(row[0], dict(zip(names[1:], map(readable, row[1:]), strict=True))) for row in rows]


def readable(value: Any) -> Any:
    """Converts a value of psycopg2 to the form that handlers use."""
    return bytes(value) if type(value) is memoryview else value


def update_rows(session: Session, statements: RowStatements, documents: Sequence[Document]) -> None:
    """Rewrites loaded rows, which are locked.

    Raises WriteSuppressed if Postgres did not write some of them.
    """
    for piece in in_pieces(documents):
        keys = text_array(document[shape_of(statements.table).key] for document in piece)
        _expect(session.count(statements.update, _encode(piece), keys), piece, statements)


def insert_rows(session: Session, statements: RowStatements, documents: Sequence[Document]) -> None:
    """Adds rows that were absent.

    Raises RowsChanged if another transaction has added one of the rows meanwhile, and WriteSuppressed if
    Postgres did not write a row for another reason.
    """
    for piece in in_pieces(documents):
        inserted = session.count(statements.insert, _encode(piece))
        if inserted != len(piece):
            keys = [document[shape_of(statements.table).key] for document in piece]
            # If another transaction added a row, the row is visible now.
            if len(load_rows(session, statements, keys)) == len(piece):
                raise RowsChanged(
                    f"{statements.name}: another transaction added {len(piece) - inserted} of the rows"
                )
            raise WriteSuppressed(statements.name, inserted, len(piece))


def delete_rows(session: Session, statements: RowStatements, keys: Sequence[str]) -> None:
    """Deletes loaded rows, which are locked.

    Raises WriteSuppressed if Postgres did not delete some of them.
    """
    for piece in in_pieces(keys):
        _expect(session.count(statements.delete, text_array(piece)), piece, statements)


LOCK_ABSENT = Statement(
    "lock_absent",
    """
    WITH t AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared($1))
    SELECT pg_advisory_xact_lock(d.k) FROM t, unnest($2) AS d (k)
    """,
    ("bigint", "bigint[]"),
)
LOCK_TABLE_KEYS = Statement("lock_table_keys", "SELECT pg_advisory_xact_lock($1)", ("bigint",))


def lock_absent_keys(session: Session, table: str, keys: Sequence[str]) -> None:
    """Locks keys without a row until the transaction ends. Also takes the shared lock of the table's keys.

    Without these locks, one queue could delete a key while another queue writes the same key at an older
    version, and no queue would detect this.
    """
    session.run(
        LOCK_ABSENT, _lock_number(table), bare_array(sorted(_lock_number(table, key) for key in keys))
    )


def lock_all_keys(session: Session, table: str) -> None:
    """Locks all keys of a table that have no row until the transaction ends. Takes only one lock."""
    session.run(LOCK_TABLE_KEYS, _lock_number(table))


def _lock_number(table: str, key: str | None = None) -> int:
    # Keys and table names contain no NUL, so each pair of a table and a key gives a unique text.
    name = f"{table}\0{key}" if key is not None else f"{table}\0\0"
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


LOAD_TOMBSTONES = Statement(
    "load_tombstones",
    "SELECT key, version FROM sluice.tombstones WHERE table_name = $1 AND key = ANY ($2)",
    ("text", "text[]"),
)


def load_tombstones(session: Session, table: str, keys: Sequence[str]) -> dict[str, int]:
    """Returns key → the version of its newest Delete."""
    return dict(session.run(LOAD_TOMBSTONES, table, text_array(keys)))


WRITE_TOMBSTONES = Statement(
    "write_tombstones",
    """
    INSERT INTO sluice.tombstones (table_name, key, version)
    SELECT $1, d.key, d.version FROM unnest($2, $3) AS d (key, version)
    ON CONFLICT (table_name, key) DO UPDATE SET version = excluded.version
    """,
    ("text", "text[]", "bigint[]"),
)


def write_tombstones(session: Session, table: str, versions: Mapping[str, int]) -> None:
    """Stores the versions of Deletes. Idempotent.

    Requires the locks of the rows, or of the keys if there is no row.
    """
    for piece in in_pieces(list(versions.items())):
        keys, numbers = zip(*piece, strict=True)
        session.run(WRITE_TOMBSTONES, table, text_array(keys), bare_array(numbers))


def document(table: Table, key: str, values: Document, bookkeeping: Document) -> Document:
    """Returns one row for `update_rows` and `insert_rows`, with values in JSON form."""
    shape = shape_of(table)
    made = {name: _jsonable(value) for name, value in values.items()}
    made |= {shape.key: key, VERSION: bookkeeping[VERSION], INSERTED_HASH: bookkeeping[INSERTED_HASH]}
    if shape.merged:
        made[FIELD_VERSIONS] = bookkeeping[FIELD_VERSIONS]
    return made


def _jsonable(value: Any) -> Any:
    return f"\\x{value.hex()}" if type(value) is bytes else value


def _encode(documents: Sequence[Document]) -> str:
    return msgspec.json.encode(documents).decode()


def _expect(count: int, wanted: Sequence[Any], statements: RowStatements) -> None:
    if count != len(wanted):
        raise WriteSuppressed(statements.name, count, len(wanted))
