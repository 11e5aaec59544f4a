"""Writes rows of users' tables without reading them, on the assumption that each is absent or older.

Each statement writes only the rows for which this is true, and returns the keys of the others. So one round
trip writes a table and proves the assumption.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy.types import JSON, Enum, LargeBinary, String, TypeEngine

from sluice.db.apply.rows import RowStatements, named_statement
from sluice.db.connection import Session, Statement
from sluice.db.identifiers import quoted
from sluice.db.table_rules import DIALECT
from sluice.db.tables import FIELD_VERSIONS, INSERTED_HASH, VERSION, Shape, shape_of
from sluice.db.values import add_exactly, in_pieces, text_array


class WholeRow(NamedTuple):
    """A row whose fields an Upsert writes. Absent: it is inserted, with `sums` above the defaults."""

    key: str
    older_than: int | None
    """The stored version must be below it (timestamps of which the last wins: or equal); None: any."""
    version: int | None
    """The new version; None keeps the stored one."""
    fields: Sequence[Any]
    sums: Sequence[Any]
    """The sum of the deltas of each counter, in the order of the columns."""


class CountedRow(NamedTuple):
    """A row of which only counters change."""

    key: str
    sums: Sequence[Any]


class InsertedRow(NamedTuple):
    """A row that an Insert writes first, so it must be absent. `counters` are values, not sums."""

    key: str
    version: int | None
    inserted_hash: UUID
    fields: Sequence[Any]
    counters: Sequence[Any]


@dataclass(frozen=True)
class AssumingStatements:
    """The statements of one declared table. Names come from its metadata, quoted; values are bound."""

    rows: RowStatements

    @cached_property
    def shape(self) -> Shape:
        """Returns the shape of the table."""
        return shape_of(self.rows.table)

    @cached_property
    def counters(self) -> tuple[str, ...]:
        """Returns the counters, in the order of all columns of a row."""
        return self.shape.row_columns[len(self.shape.fields) :]

    @cached_property
    def defaults(self) -> tuple[Any, ...]:
        """Returns the defaults of the counters."""
        return tuple(self.shape.defaults[name] for name in self.counters)

    @cached_property
    def arrays(self) -> dict[str, Callable[[Iterable[Any]], str]]:
        """Returns, by column, the function that makes the array of its values."""
        return {name: _array_maker(kind) for name, kind in self.shape.types.items()}

    @cached_property
    def whole(self) -> Statement:
        """Rewrites or adds rows. `k`, `o`, `v`: key, older_than, version. A NULL in `o` means `v`."""
        fields, counters = self.shape.fields, self.counters
        target, key = self.rows.target, self.rows.key
        n, m = len(fields), len(counters)
        older = "<=" if self.shape.last_wins else "<"
        than = "coalesce(d.o, d.v)"
        guard = f"({than} IS NULL OR t.{VERSION} IS NULL OR t.{VERSION} {older} {than})"
        if self.shape.merged:
            # A merged field may be newer than the row.
            guard += f" AND t.{FIELD_VERSIONS} IS NULL"
        guard += "".join(f" AND t.{quoted(name)} IS NOT NULL" for name in counters)
        sets = [f"{quoted(name)} = d.f{i}" for i, name in enumerate(fields)]
        sets += [f"{quoted(name)} = t.{quoted(name)} + d.s{i}" for i, name in enumerate(counters)]
        sets.append(f"{VERSION} = coalesce(d.v, t.{VERSION})")
        columns = ["k", "o", "v", *(f"f{i}" for i in range(n)), *(f"s{i}" for i in range(m))]
        columns += [f"c{i}" for i in range(m)]
        names = ", ".join([key, *map(quoted, (*fields, *counters)), VERSION])
        values = ", ".join(["d.k", *(f"d.f{i}" for i in range(n)), *(f"d.c{i}" for i in range(m)), "d.v"])
        return named_statement(
            self.rows.name,
            "assume_whole",
            f"""
            WITH d AS MATERIALIZED (SELECT * FROM unnest({_places(columns)}) AS d ({", ".join(columns)})),
            updated AS (
                UPDATE {target} t SET {", ".join(sets)} FROM d
                WHERE t.{key} = d.k AND t.{key} = ANY ($1) AND {guard}
                RETURNING d.k
            ),
            inserted AS (
                INSERT INTO {target} ({names})
                SELECT {values} FROM d WHERE NOT EXISTS (SELECT FROM updated u WHERE u.k = d.k)
                ON CONFLICT ({key}) DO NOTHING RETURNING {key} AS k
            )
            {_REFUSED}
            """,
            self._types(("bigint[]", "bigint[]"), (*fields, *counters, *counters)),
        )

    @cached_property
    def counted(self) -> Statement:
        """Adds to counters. Adds absent rows if all columns have defaults."""
        counters, key, target = self.counters, self.rows.key, self.rows.target
        m = len(counters)
        sets = ", ".join(f"{quoted(name)} = t.{quoted(name)} + d.s{i}" for i, name in enumerate(counters))
        guard = "".join(f" AND t.{quoted(name)} IS NOT NULL" for name in counters)
        fields = [name for name in self.shape.fields if self.shape.defaults[name] is not None]
        columns = ["k", *(f"s{i}" for i in range(m)), *(f"c{i}" for i in range(m))]
        columns += [f"f{i}" for i in range(len(fields))]
        names = ", ".join([key, *map(quoted, (*counters, *fields))])
        values = ", ".join(["d.k", *(f"d.{name}" for name in columns[1 + m :])])
        may_insert = self.shape.may_count_absent
        return named_statement(
            self.rows.name,
            "assume_counted",
            f"""
            WITH d AS MATERIALIZED (SELECT * FROM unnest({_places(columns)}) AS d ({", ".join(columns)})),
            updated AS (
                UPDATE {target} t SET {sets} FROM d
                WHERE t.{key} = d.k AND t.{key} = ANY ($1) {guard}
                RETURNING d.k
            ),
            inserted AS (
                INSERT INTO {target} ({names})
                SELECT {values} FROM d
                WHERE {may_insert} AND NOT EXISTS (SELECT FROM updated u WHERE u.k = d.k)
                ON CONFLICT ({key}) DO NOTHING RETURNING {key} AS k
            )
            {_REFUSED}
            """,
            self._types((), (*counters, *counters, *fields)),
        )

    @cached_property
    def inserted(self) -> Statement:
        """Adds rows."""
        fields, key = (*self.shape.fields, *self.counters), self.rows.key
        columns = ["k", "v", "h", *(f"f{i}" for i in range(len(fields)))]
        names = ", ".join([key, VERSION, INSERTED_HASH, *map(quoted, fields)])
        return named_statement(
            self.rows.name,
            "assume_inserted",
            f"""
            WITH d AS MATERIALIZED (SELECT * FROM unnest({_places(columns)}) AS d ({", ".join(columns)})),
            inserted AS (
                INSERT INTO {self.rows.target} ({names}) SELECT * FROM d
                ON CONFLICT ({key}) DO NOTHING RETURNING {key} AS k
            )
            SELECT d.k FROM d WHERE NOT EXISTS (SELECT FROM inserted i WHERE i.k = d.k)
            """,
            self._types(("bigint[]", "uuid[]"), fields),
        )

    def _types(self, own: tuple[str, ...], columns: Iterable[str]) -> tuple[str, ...]:
        return ("text[]", *own, *(f"{_type_name(self.shape.types[name])}[]" for name in columns))


_REFUSED = """
    SELECT d.k FROM d WHERE NOT EXISTS (SELECT FROM updated u WHERE u.k = d.k)
                        AND NOT EXISTS (SELECT FROM inserted i WHERE i.k = d.k)
"""


def write_whole_rows(session: Session, of: AssumingStatements, rows: Sequence[WholeRow]) -> list[str]:
    """Writes the rows that are absent or older. Returns the keys of the others, which are unchanged."""
    refused: list[str] = []
    for piece in in_pieces(rows):
        keys, older_than, versions, fields, sums = zip(*piece, strict=True)
        by_field = zip(of.shape.fields, zip(*fields, strict=True), strict=True)
        columns = [of.arrays[name](values) for name, values in by_field]
        columns += _counter_arrays(of, sums)
        # Usually one event wrote each row. Then Postgres need not parse the versions twice.
        guards = "{}" if older_than == versions else plain_array(older_than)
        refused += _keys(session.run(of.whole, text_array(keys), guards, plain_array(versions), *columns))
    return refused


def count_rows(session: Session, of: AssumingStatements, rows: Sequence[CountedRow]) -> list[str]:
    """Adds to the counters of rows. Returns the keys that were not written."""
    fields = [name for name in of.shape.fields if of.shape.defaults[name] is not None]
    refused: list[str] = []
    for piece in in_pieces(rows):
        keys, sums = zip(*piece, strict=True)
        columns = [of.arrays[name]([of.shape.defaults[name]] * len(piece)) for name in fields]
        refused += _keys(session.run(of.counted, text_array(keys), *_counter_arrays(of, sums), *columns))
    return refused


def insert_assumed_rows(session: Session, of: AssumingStatements, rows: Sequence[InsertedRow]) -> list[str]:
    """Adds rows that are absent. Returns the keys of the others."""
    refused: list[str] = []
    for piece in in_pieces(rows):
        keys, versions, hashes, fields, counters = zip(*piece, strict=True)
        names = (*of.shape.fields, *of.counters)
        values = zip(*[(*a, *b) for a, b in zip(fields, counters, strict=True)], strict=True)
        columns = [of.arrays[name](of_column) for name, of_column in zip(names, values, strict=True)]
        refused += _keys(
            session.run(of.inserted, text_array(keys), plain_array(versions), plain_array(hashes), *columns)
        )
    return refused


def _counter_arrays(of: AssumingStatements, sums: Sequence[Sequence[Any]]) -> list[str]:
    """Returns the arrays of the sums, then those of the values of absent rows."""
    by_counter = list(zip(*sums, strict=True))
    arrays = [of.arrays[name](values) for name, values in zip(of.counters, by_counter, strict=True)]
    for name, default, values in zip(of.counters, of.defaults, by_counter, strict=True):
        arrays.append(of.arrays[name]([add_exactly(default, value) for value in values]))
    return arrays


def _keys(rows: Iterable[tuple[str]]) -> list[str]:
    return [key for (key,) in rows]


def plain_array(values: Iterable[Any]) -> str:
    """Returns an array of values whose texts need no quoting. None becomes NULL."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def _json_array(values: Iterable[Any]) -> str:
    return text_array(None if value is None else msgspec.json.encode(value).decode() for value in values)


def _bytes_array(values: Iterable[bytes | None]) -> str:
    return text_array(None if value is None else f"\\x{value.hex()}" for value in values)


def _time_array(values: Iterable[Any]) -> str:
    return plain_array(None if value is None else value.isoformat() for value in values)


def _array_maker(kind: TypeEngine[Any]) -> Callable[[Iterable[Any]], str]:
    if isinstance(kind, String | Enum):
        return text_array
    if isinstance(kind, JSON):
        return _json_array
    if isinstance(kind, LargeBinary):
        return _bytes_array
    return _time_array if kind.python_type.__module__ == "datetime" else plain_array


def _type_name(kind: TypeEngine[Any]) -> str:
    """Returns the type of a parameter: without a length or a precision, which would cut or round values."""
    if isinstance(kind, Enum) and kind.native_enum:
        return str(quoted(kind.name or ""))
    if isinstance(kind, String):
        return "text"
    return re.sub(r"\(.*?\)", "", kind.compile(dialect=DIALECT))


def _places(columns: Sequence[str]) -> str:
    return ", ".join(f"${number}" for number in range(1, len(columns) + 1))
