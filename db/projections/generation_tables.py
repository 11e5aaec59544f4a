"""Creates, reads, replaces and drops the tables of generations, and the view of the live generation."""

import itertools
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from psycopg2.errors import QueryCanceled
from sqlalchemy import MetaData, Table
from sqlalchemy.sql import quoted_name

from sluice.db.connection import Session, Statement
from sluice.db.identifiers import USERS_SCHEMA, qualified, quoted
from sluice.db.table_rules import MAX_NAME_BYTES
from sluice.db.tables import generation_name

COUNTING = "SET LOCAL statement_timeout = '60s'"


def first_generation(projection: Table) -> Table:
    """Returns generation 1 as a table to create, with the projection's columns, constraints and indexes."""
    table = projection.to_metadata(MetaData(), name=generation_name(projection.name, 1))
    taken: set[str] = set()
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        name = _index_name([table.name, *(column.name for column in index.columns)], taken)
        taken.add(name)
        index.name = quoted_name(name, None)
    return table


def _index_name(parts: Sequence[str], taken: Set[str]) -> str:
    """Returns a free name for an index, as Postgres would choose it. Index names are unique in a schema."""
    for number in itertools.count():
        ending = f"_idx{number or ''}"
        name = "_".join(parts).encode()[: MAX_NAME_BYTES - len(ending)].decode(errors="ignore") + ending
        if name not in taken:
            return name
    raise AssertionError("unreachable: the numbers are infinite")


def view_text(projection: str, columns: Sequence[str], generation: int, options: Sequence[str] = ()) -> str:
    """Returns the statement that makes the view show a generation.

    The view keeps its owner, grants, comments, triggers, rules, column defaults and dependent views. Its
    options, such as `security_invoker=true`, must be passed again.
    """
    names = ", ".join(quoted(name) for name in columns)
    source = qualified(generation_name(projection, generation))
    given = f" WITH ({', '.join(options)})" if options else ""
    return f"CREATE OR REPLACE VIEW {qualified(projection)}{given} AS SELECT {names} FROM {source}"


READ_ACCESS_METHOD = Statement(
    "read_access_method",
    """
    SELECT quote_ident(m.amname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_am m ON m.oid = c.relam
    WHERE n.nspname = $1 AND c.relname = $2
    """,
    ("text", "text"),
)


def make_like(session: Session, table: str, model: str) -> None:
    """Creates an empty table with the columns, defaults, constraints, indexes and statistics of `model`."""
    ((method,),) = session.run(READ_ACCESS_METHOD, USERS_SCHEMA, model)
    session.command(f"CREATE TABLE {qualified(table)} (LIKE {qualified(model)} INCLUDING ALL) USING {method}")


def fill_from(session: Session, table: str, source: str) -> None:
    """Copies all rows from a table with the same columns."""
    session.command(f"INSERT INTO {qualified(table)} SELECT * FROM {qualified(source)}")


COPY_TOMBSTONES = Statement(
    "copy_tombstones",
    """
    INSERT INTO sluice.tombstones (table_name, key, version)
    SELECT $2, key, version FROM sluice.tombstones WHERE table_name = $1
    """,
    ("text", "text"),
)


def copy_tombstones(session: Session, source: str, table: str) -> None:
    """Copies the tombstones of a table to its copy."""
    session.run(COPY_TOMBSTONES, source, table)


def count_rows(session: Session, table: str) -> int | None:
    """Returns the number of rows of a table; None if counting takes over a minute. Reads all rows."""
    try:
        with session.transaction("READ ONLY"):
            session.defer(COUNTING)
            ((rows,),) = session.run(Statement(f"count_{table}", f"SELECT count(*) FROM {qualified(table)}"))
    except QueryCanceled:
        return None
    return int(rows)


def drop_table(session: Session, table: str) -> None:
    """Drops a table if it exists. Raises the error of Postgres if a view depends on the table."""
    session.command(f"DROP TABLE IF EXISTS {qualified(table)}")


@dataclass(frozen=True)
class TableFacts:
    """Facts about a users' table or view. `kind`: "table", "view", another kind, or None."""

    kind: str | None
    owner: str | None
    columns: Mapping[str, str]
    """Column name → type, in order."""
    triggers: Sequence[str]
    readers: Sequence[str]
    """Names of views, foreign keys, functions and other objects that depend on the table."""
    estimated_rows: int
    bytes: int
    definition: str | None = None
    """The query of a view as Postgres prints it."""
    options: Sequence[str] = ()
    """Options as name=value: `security_invoker=true` of a view, `fillfactor=70` of a table."""
    is_owned: bool = True
    """True if this role is the owner, or a member of the role that is the owner."""


READ_TABLE = Statement(
    "read_table_facts",
    """
    SELECT c.oid::bigint, CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' ELSE 'something else' END,
           pg_get_userbyid(c.relowner), greatest(c.reltuples, 0)::bigint, pg_total_relation_size(c.oid),
           CASE c.relkind WHEN 'v' THEN pg_get_viewdef(c.oid) END, coalesce(c.reloptions, '{}'),
           pg_has_role(c.relowner, 'USAGE')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2
    """,
    ("text", "text"),
)
READ_COLUMNS = Statement(
    "read_table_columns",
    """
    SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum
    """,
    ("bigint",),
)
READ_TRIGGERS = Statement(
    "read_table_triggers",
    "SELECT tgname FROM pg_trigger WHERE tgrelid = $1::oid AND NOT tgisinternal ORDER BY tgname",
    ("bigint",),
)
# For a view, Postgres stores the dependency at the view's rewrite rule. Objects that depend on the row type
# of the table are included.
READ_READERS = Statement(
    "read_table_readers",
    """
    SELECT DISTINCT CASE
        WHEN r.rulename = '_RETURN' THEN r.ev_class::regclass::text
        WHEN o.contype = 'f' THEN o.conrelid::regclass || ' (foreign key ' || o.conname || ')'
        ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END
    FROM pg_depend d
    LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    LEFT JOIN pg_constraint o ON d.classid = 'pg_constraint'::regclass AND o.oid = d.objid
    LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
    LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
    LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
    WHERE d.deptype = 'n' AND d.classid <> 'pg_publication_rel'::regclass
      AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::oid
           OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (
               SELECT unnest(ARRAY[t.oid, t.typarray]) FROM pg_type t WHERE t.typrelid = $1::oid))
      AND coalesce(r.ev_class, o.conrelid, p.polrelid, g.tgrelid, f.adrelid, 0) <> $1::oid
    ORDER BY 1
    """,
    ("bigint",),
)


def read_table(session: Session, table: str) -> TableFacts:
    """Returns the facts about a name in schema public."""
    rows = session.run(READ_TABLE, USERS_SCHEMA, table)
    if not rows:
        return TableFacts(None, None, {}, (), (), 0, 0)
    oid, kind, owner, estimated_rows, size, *more = rows[0]
    return TableFacts(
        kind,
        owner,
        dict(session.run(READ_COLUMNS, oid)),
        [name for (name,) in session.run(READ_TRIGGERS, oid)],
        [name for (name,) in session.run(READ_READERS, oid)],
        estimated_rows,
        size,
        *more,
    )


READ_LEFT_OVER = Statement(
    "read_left_over",
    """
    SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN sluice.projections p ON p.projection = $2
    WHERE n.nspname = $1 AND c.relkind = 'r'
      AND c.relname = ANY (SELECT $2 || '_g' || i FROM generate_series(1, p.newest_generation) AS i)
      AND c.relname <> ALL (
          SELECT $2 || '_g' || g.generation FROM sluice.generations g WHERE g.projection = $2
      )
    ORDER BY c.relname
    """,
    ("text", "text"),
)


def read_left_over(session: Session, projection: str) -> list[str]:
    """Returns the tables of generations whose creation or drop was not completed."""
    return [name for (name,) in session.run(READ_LEFT_OVER, USERS_SCHEMA, projection)]


LOCK_ALL_QUEUES = Statement("lock_all_queues", "SELECT queue FROM sluice.queues ORDER BY queue FOR UPDATE")


def lock_all_queues(session: Session) -> None:
    """Takes the locks of all queues. Until this transaction ends, no worker applies records."""
    session.run(LOCK_ALL_QUEUES)
