"""Updates a database to the declared tables: migrates Sluice's tables, and creates missing users' tables."""

import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from typing import TextIO, cast

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg2.errors import LockNotAvailable
from sqlalchemy import Connection, MetaData, String, Table, create_engine, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from sluice.db.advisory_locks import WRITTEN
from sluice.db.connecting import open_connection
from sluice.db.identifiers import qualified
from sluice.db.migrations.neighbours import find_relation, read_taken
from sluice.db.projections.generation_tables import first_generation, view_text
from sluice.db.schema import VERSION_TABLE
from sluice.db.schema_text import in_schema
from sluice.db.tables import TableRefused, has_shape, is_projection, shape_of
from sluice.runtime.installation import InstallationRefused
from sluice.runtime.schema_name import SCHEMA_SETTING, schema_of

# The key of the advisory lock: the letters "sluice" in ASCII, which other programs do not use. All
# installations of a database share it, because all create tables in schema `public`.
LOCK = 0x736C75696365
# While a change waits for a table in use, it blocks all workers that use the table. Therefore it fails after
# this time, and is retried.
LOCK_TIMEOUT = "5s"
# Shorter than 2 s, which is the lock timeout of workers' statements that wait behind a waiting migration.
SHORT_LOCK_TIMEOUT = "500ms"
ATTEMPTS = 60
PAUSE_SECONDS = 0.5  # the longest pause; statements that waited behind the migration can run during the pause


def upgrade(database_url: str) -> None:
    """Applies all migrations. Older processes may run meanwhile. Several calls may run at the same time.

    Idempotent. Each migration has its own transaction. It changes at most one table in use, because locks on
    two tables could cause a deadlock with a worker. Raises InstallationRefused if the database is newer than
    this code, or if its encoding is not UTF8.
    """
    attempt = 0
    while not _is_newest(database_url):
        attempt += 1
        try:
            _upgrade_by_one(database_url)
        except OperationalError as error:
            if attempt >= ATTEMPTS or not isinstance(error.orig, LockNotAvailable):
                raise
            time.sleep(random.uniform(0, PAUSE_SECONDS))


def _is_newest(database_url: str) -> bool:
    with connected(database_url) as connection:
        schema = schema_of(make_url(database_url))
        require_usable(connection, schema)
        return revision_of(connection, schema) == newest_revision()


def _upgrade_by_one(database_url: str) -> None:
    schema = schema_of(make_url(database_url))
    with _locked(database_url, lock_timeout=SHORT_LOCK_TIMEOUT) as connection:
        # Another `sluice init` may have applied the migration while this one waited for the lock.
        if revision_of(connection, schema) == newest_revision():
            return
        connection.execute(CreateSchema(schema, if_not_exists=True))
        config = build_config(schema)
        config.attributes["connection"] = connection
        command.upgrade(config, "+1")


def create_user_tables(database_url: str, metadatas: Iterable[MetaData]) -> list[str]:
    """Creates missing tables in schema `public` and returns their names. Changes no table. Idempotent.

    Raises TableRefused if the collation of a key treats different keys as equal, if another installation of
    the database uses a table, or if Postgres refuses a table.
    """
    metadatas = list(metadatas)
    with _locked(database_url) as connection, _refusing():
        taken = read_taken(connection, schema_of(make_url(database_url)))
        _refuse_taken(taken, (table for metadata in metadatas for table in metadata.tables))
        before = tables_of(connection)
        for metadata in by_reference(metadatas):
            _require_distinct_keys(connection, metadata)
            plain = [table for table in metadata.sorted_tables if not is_projection(table)]
            metadata.create_all(connection, tables=plain, checkfirst=True)
        return sorted(tables_of(connection) - before)


def by_reference(metadatas: Iterable[MetaData]) -> list[MetaData]:
    """Returns the MetaData objects in the order of their foreign keys. Raises TableRefused for a cycle."""
    known = list(metadatas)
    named = {
        one: [key.column.table.metadata for table in one.tables.values() for key in table.foreign_keys]
        for one in known
    }
    order = TopologicalSorter({one: [other for other in named[one] if other is not one] for one in known})
    try:
        return [one for one in order.static_order() if one in named]
    except CycleError as error:
        names = ", ".join(sorted(table for one in error.args[1][1:] for table in one.tables))
        raise TableRefused(
            f"tables of several MetaData objects refer to each other: {names}; use one MetaData"
        ) from error


@contextmanager
def _refusing() -> Iterator[None]:
    """Converts an error of Postgres in the block to TableRefused."""
    try:
        yield
    except ProgrammingError as error:
        statement, reason = (str(part).strip().partition("\n")[0] for part in (error.statement, error.orig))
        raise TableRefused(f"Postgres refused `{statement.rstrip(' (')}`: {reason}") from error


def _refuse_taken(taken: Mapping[str, str], tables: Iterable[str]) -> None:
    for table in sorted(set(tables) & taken.keys()):
        raise TableRefused(
            f"table {table} belongs to the installation in schema {taken[table]} of this database; choose"
            " another name"
        )


def _require_distinct_keys(connection: Connection, metadata: MetaData) -> None:
    query = text("SELECT 1 FROM pg_collation WHERE collname = :name AND NOT collisdeterministic")
    for table in filter(has_shape, metadata.tables.values()):
        key = table.columns[shape_of(table).key]
        collation = cast(String, key.type).collation
        if collation is not None and connection.scalar(query, {"name": collation}) is not None:
            raise TableRefused(
                f"table {table.name}: key {key.name} has collation {collation}, which treats different texts"
                " as equal: two keys would be one row; leave the collation out"
            )


_ADD_PROJECTION = "INSERT INTO sluice.projections VALUES (:projection, :generation, :generation)"
_ADD_GENERATION = """
    INSERT INTO sluice.generations (projection, generation, state, revision, has_been_live, live_at)
    VALUES (:projection, :generation, 'live', :revision, true, now())
"""


def create_projections(
    database_url: str, tables: Mapping[str, Table], revisions: Mapping[str, int]
) -> list[str]:
    """Creates missing live generations and their views. Returns the new projections.

    Idempotent. A view that already shows a generation is kept. Raises TableRefused if another object has the
    view's name, and if the projection belongs to another installation of the database.
    """
    made = []
    schema = schema_of(make_url(database_url))
    with _locked(database_url) as connection, _refusing():
        projections_here = in_schema("SELECT projection FROM sluice.projections", schema)
        known = set(connection.scalars(text(projections_here)))
        _refuse_taken(read_taken(connection, schema), tables.keys() - known)
        for name, projection in sorted(tables.items()):
            if name in known:
                continue
            live = generation_shown(connection, name)
            if live is None:
                live = 1
                first_generation(projection).create(connection)
                columns = [column.name for column in projection.columns]
                connection.execute(text(view_text(name, columns, live)))
            values = {"projection": name, "generation": live, "revision": revisions[name]}
            connection.execute(text(in_schema(_ADD_PROJECTION, schema)), values)
            connection.execute(text(in_schema(_ADD_GENERATION, schema)), values)
            made.append(name)
    return made


def generation_shown(connection: Connection, projection: str) -> int | None:
    """Returns the generation that a view of this name shows; None if no object has this name.

    If Sluice's schema was lost, the view exists, but the projection has no row. Raises TableRefused if the
    object is not the view of a generation.
    """
    if connection.scalar(text("SELECT to_regclass(:name)"), {"name": qualified(projection)}) is None:
        return None
    # information_schema lists the tables of a view for the owner only.
    usage = text(
        "SELECT DISTINCT t.relname FROM pg_rewrite r"
        " JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid"
        " AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class"
        " JOIN pg_class t ON t.oid = d.refobjid WHERE r.ev_class = to_regclass(:name)"
    )
    sources = list(connection.scalars(usage, {"name": qualified(projection)}))
    shown = re.fullmatch(rf"{re.escape(projection)}_g(\d+)", sources[0]) if len(sources) == 1 else None
    if shown is None:
        raise TableRefused(
            f"projection {projection}: {qualified(projection)} exists and is not a projection's view:"
            " rename it or the projection"
        )
    return int(shown[1])


def newest_revision() -> str | None:
    """Returns the newest revision in this code."""
    return ScriptDirectory.from_config(build_config()).get_current_head()


def current_revision(database_url: str) -> str | None:
    """Returns the revision of the database, even of a standby; None before the first migration."""
    with connected(database_url, may_be_read_only=True) as connection:
        return revision_of(connection, schema_of(make_url(database_url)))


def revision_of(connection: Connection, schema: str) -> str | None:
    """Returns the revision of the tables in this schema; None before the first migration."""
    options = {"version_table": VERSION_TABLE, "version_table_schema": schema}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def require_usable(connection: Connection, schema: str) -> None:
    """Raises InstallationRefused if the schema is newer than this code or belongs to another program.

    Also raises it if the encoding is not UTF8.
    """
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise InstallationRefused(
            f"the encoding of the database is {encoding}, which cannot store the letters of every event;"
            " create a database with ENCODING 'UTF8' TEMPLATE template0"
        )
    scripts = ScriptDirectory.from_config(build_config())
    revision = revision_of(connection, schema)
    if revision is None and schema != WRITTEN and (other := find_relation(connection, schema)) is not None:
        raise InstallationRefused(
            f"schema {schema} has {other} of another program; set {SCHEMA_SETTING} to a schema of its own"
        )
    if revision is not None and revision not in {one.revision for one in scripts.walk_revisions()}:
        raise InstallationRefused(
            f"the database is at migration {revision}, and this version of Sluice has none above"
            f" {scripts.get_current_head()}: a newer version made it; run `sluice init` of that version"
        )


@contextmanager
def _locked(database_url: str, *, lock_timeout: str = LOCK_TIMEOUT) -> Iterator[Connection]:
    with connected(database_url) as connection:
        # This lock waits for other migrations without a limit, so it is taken before the timeout is set.
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        connection.execute(text(f"SET LOCAL lock_timeout = '{lock_timeout}'"))
        yield connection


@contextmanager
def connected(database_url: str, *, may_be_read_only: bool = False) -> Iterator[Connection]:
    """Yields a connection in a transaction."""

    def connect() -> object:
        return open_connection(
            make_url(database_url),
            settings={},
            application_name="sluice migrate",
            may_be_read_only=may_be_read_only,
        )

    engine = create_engine("postgresql+psycopg2://", poolclass=NullPool, creator=connect)
    with engine.begin() as connection:
        yield connection


def build_config(schema: str = WRITTEN, output_buffer: TextIO | None = None) -> Config:
    """Returns the configuration of Alembic. With a buffer, Alembic writes SQL into it."""
    config = Config(output_buffer=output_buffer)
    config.set_main_option("script_location", "sluice.db:migrations")
    config.attributes["schema"] = schema
    return config


def tables_of(connection: Connection) -> set[str]:
    """Returns the names of the tables in schema `public`."""
    names = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
    return set(names.scalars())
