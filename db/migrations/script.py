"""Prints the DDL that a database lacks, for a role that may create objects. Contains no key."""

import re
from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any

from alembic import command
from sqlalchemy import Connection, MetaData, Table, create_mock_engine, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.named_types import CreateEnumType
from sqlalchemy.engine import make_url

from sluice.db.migrations import migrate
from sluice.db.projections.generation_tables import first_generation, view_text
from sluice.db.schema_text import in_schema
from sluice.db.session_settings import MEANINGS
from sluice.db.tables import is_projection
from sluice.runtime.schema_name import schema_of

HEAD = f"""\
-- Run it with: psql -v ON_ERROR_STOP=1. If it fails, print it again: it then has only the rest.
SET client_encoding = 'UTF8';
SET standard_conforming_strings = '{MEANINGS["standard_conforming_strings"]}';
SET search_path = '{MEANINGS["search_path"]}';
SET lock_timeout = '{migrate.LOCK_TIMEOUT}';
"""


def missing_ddl(database_url: str, metadatas: Iterable[MetaData], projections: Mapping[str, Table]) -> str:
    """Returns the statements that the database lacks; "" if it lacks none.

    Raises InstallationRefused if the encoding is not UTF8 or the database is newer than this code.
    """
    schema = schema_of(make_url(database_url))
    with migrate.connected(database_url, may_be_read_only=True) as connection:
        migrate.require_usable(connection, schema)
        revision = migrate.revision_of(connection, schema)
        parts = [_migrations(revision, schema)] if revision != migrate.newest_revision() else []
        parts += _user_tables(connection, metadatas)
        parts += _projections(connection, projections)
    return "\n".join([HEAD, *parts]) if parts else ""


def _migrations(revision: str | None, schema: str) -> str:
    buffer = StringIO()
    config = migrate.build_config(schema, output_buffer=buffer)
    command.upgrade(config, f"{revision or 'base'}:head", sql=True)
    return f"CREATE SCHEMA IF NOT EXISTS {schema};\n{in_schema(buffer.getvalue(), schema)}"


def _user_tables(connection: Connection, metadatas: Iterable[MetaData]) -> list[str]:
    existing, types = migrate.tables_of(connection), _types(connection)
    statements: list[str] = []
    for metadata in migrate.by_reference(metadatas):
        missing = [
            table
            for table in metadata.sorted_tables
            if not is_projection(table) and table.name not in existing
        ]
        statements += _creating(metadata, missing, types)
    return statements


def _projections(connection: Connection, projections: Mapping[str, Table]) -> list[str]:
    statements: list[str] = []
    for name, projection in sorted(projections.items()):
        if migrate.generation_shown(connection, name) is None:
            table = first_generation(projection)
            statements += _creating(table.metadata, [table], _types(connection))
            statements.append(f"{view_text(name, [column.name for column in projection.columns], 1)};")
    return statements


def _types(connection: Connection) -> frozenset[str]:
    query = text("SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace")
    return frozenset(connection.scalars(query))


def _creating(metadata: MetaData, tables: list[Table], existing_types: frozenset[str]) -> list[str]:
    statements: list[str] = []
    # With another parameter style, a percent sign would be doubled.
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]

    def record(ddl: Any, *_: object, **__: object) -> None:
        if not (isinstance(ddl, CreateEnumType) and ddl.element.name in existing_types):
            statement = re.sub(r"(?m)^\t+", "    ", str(ddl.compile(dialect=dialect)).strip())
            statements.append(f"{statement};")

    metadata.create_all(create_mock_engine("postgresql+psycopg2://", record), tables=tables, checkfirst=False)
    return statements
