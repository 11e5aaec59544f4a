"""Reads users' tables and columns from the catalogue of Postgres."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Table

from sluice.db.connection import Session, Statement
from sluice.db.schema import metadata
from sluice.db.tables import generation_name, is_projection
from sluice.db.values import text_array


class StoredColumn(NamedTuple):
    """One column. A domain is shown as its base type."""

    type: str
    """The type without modifiers, for example `numeric` or `timestamp with time zone`."""
    modifier: int
    """Length, or precision and scale, encoded as in `pg_attribute.atttypmod`; -1 if there are none."""
    shown: str
    """The type as Postgres prints it."""
    not_null: bool
    is_domain: bool = False
    has_default: bool = False
    generated: str | None = None
    """EXPRESSION or IDENTITY if Postgres refuses writes to the column."""
    is_distinct: bool = True
    """True if the collation is deterministic. Then different values are never equal."""
    labels: tuple[str, ...] | None = None
    """The labels of an Enum."""


@dataclass(frozen=True)
class StoredTable:
    """A table of schema public, or another object with a table's name."""

    name: str
    kind: str = "table"
    is_writable: bool = True
    is_logged: bool = True
    columns: Mapping[str, StoredColumn] = field(default_factory=dict)
    unique: frozenset[str] = frozenset()
    """Columns with a unique constraint or index."""
    generation: int | None = None
    """The live generation of a projection; None for other tables."""


# 28 is the bit mask of INSERT, UPDATE and DELETE.
READ_RELATIONS = Statement(
    "read_relations",
    """
    SELECT c.relname::text,
           CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
                ELSE 'table' END,
           c.relkind IN ('r', 'p') OR (c.relkind = 'v' AND pg_relation_is_updatable(c.oid, false) & 28 = 28),
           c.relpersistence <> 'u',
           ARRAY (
               SELECT a.attname::text FROM pg_index i
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
               WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
                 AND i.indnkeyatts = 1 AND i.indpred IS NULL AND i.indexprs IS NULL
           )
    FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY ($1)
      AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    """,
    ("text[]",),
)
READ_STORED_COLUMNS = Statement(
    "read_stored_columns",
    """
    WITH RECURSIVE resolved AS (
        SELECT a.attrelid, a.attnum, a.atttypid AS type, a.atttypmod AS modifier,
               a.attnotnull AS not_null, a.atthasdef AS has_default
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY ($1)
          AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT r.attrelid, r.attnum, t.typbasetype, t.typtypmod,
               r.not_null OR t.typnotnull, r.has_default OR t.typdefault IS NOT NULL
        FROM resolved r JOIN pg_type t ON t.oid = r.type
        WHERE t.typtype = 'd'
    )
    SELECT c.relname::text, a.attname::text,
           CASE t.typname WHEN 'citext' THEN 'citext' ELSE format_type(r.type, NULL) END, r.modifier,
           CASE WHEN r.type = a.atttypid THEN format_type(r.type, r.modifier)
                ELSE format('%s (%s)', format_type(a.atttypid, NULL), format_type(r.type, r.modifier)) END,
           r.not_null, r.type <> a.atttypid, r.has_default OR a.attidentity <> '',
           CASE WHEN a.attgenerated <> '' THEN 'EXPRESSION' WHEN a.attidentity = 'a' THEN 'IDENTITY' END,
           coalesce(k.collisdeterministic, true),
           (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_enum e
            WHERE e.enumtypid = r.type)
    FROM resolved r
    JOIN pg_type t ON t.oid = r.type AND t.typtype <> 'd'
    JOIN pg_class c ON c.oid = r.attrelid
    JOIN pg_attribute a ON a.attrelid = r.attrelid AND a.attnum = r.attnum
    LEFT JOIN pg_collation k ON k.oid = a.attcollation
    """,
    ("text[]",),
)


READ_MISPLACED = Statement(
    "read_misplaced",
    """
    SELECT relname::text FROM pg_class
    WHERE relnamespace = to_regnamespace($1) AND relname = ANY ($2) AND relname <> ALL ($3)
      AND relkind IN ('r', 'p', 'v', 'm', 'f')
    ORDER BY relname
    """,
    ("text", "text[]", "text[]"),
)


def read_misplaced(session: Session, tables: Iterable[str]) -> list[str]:
    """Returns the names of tables in Sluice's schema that are not Sluice's own tables."""
    own = text_array(table.name for table in metadata.tables.values())
    return [name for (name,) in session.run(READ_MISPLACED, session.schema, text_array(tables), own)]


READ_LIVE_GENERATIONS = Statement(
    "read_live_generations", "SELECT projection, live_generation FROM sluice.projections"
)


def read_stored_tables(session: Session, tables: Iterable[Table]) -> dict[str, StoredTable]:
    """Returns declared table → existing table; for a projection, the table of its live generation."""
    live = dict(session.run(READ_LIVE_GENERATIONS))
    generations = {table.name: live.get(table.name) if is_projection(table) else None for table in tables}
    declared = {
        name if number is None else generation_name(name, number): name
        for name, number in generations.items()
    }
    columns: dict[str, dict[str, StoredColumn]] = {}
    for table, column, *facts, labels in session.run(READ_STORED_COLUMNS, text_array(declared)):
        stored = StoredColumn._make([*facts, None if labels is None else tuple(labels)])
        columns.setdefault(table, {})[column] = stored
    return {
        declared[name]: StoredTable(
            name,
            kind,
            is_writable,
            is_logged,
            columns.get(name, {}),
            frozenset(unique),
            generations[declared[name]],
        )
        for name, kind, is_writable, is_logged, unique in session.run(READ_RELATIONS, text_array(declared))
    }
