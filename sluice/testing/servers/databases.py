"""Databases for tests. Each database is a copy of a migrated template, and is dropped after the test."""

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import Any

import psycopg2
from psycopg2 import sql
from sqlalchemy.engine import make_url

from sluice.db.migrations.migrate import upgrade
from sluice.runtime.database_url import without_own_options
from sluice.runtime.schema_name import named_schema

TEMPLATE = "sluice_test_template"

_numbers = itertools.count(1)


@contextmanager
def fresh_database(server_url: str, *, template: str = TEMPLATE) -> Iterator[str]:
    """Yields the URL of a new, migrated database. `server_url` is the URL of any other database of
    the server. Makes the template first if the template is missing.
    """
    name = create_database(server_url, template=template)
    try:
        yield database_url(server_url, name)
    finally:
        # A test may leave its own Postgres stopped. The data folder of this Postgres is removed later.
        with suppress(psycopg2.OperationalError):
            drop_databases(server_url, [name])


def create_database(server_url: str, *, template: str = TEMPLATE) -> str:
    """Returns the name of a new, migrated database. Makes the template first if the template is missing."""
    name = f"sluice_test_{os.getpid()}_{next(_numbers)}"
    template = template_of(server_url, template)
    _make_template(server_url, template)
    with _connected(server_url) as cursor:
        cursor.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    return name


def template_of(server_url: str, template: str) -> str:
    """Returns the name of the template whose tables are in the schema that the URL names."""
    schema = named_schema(server_url)
    # A hash, because Postgres cuts names at 63 bytes.
    return template if schema is None else f"{template}_{blake2b(schema.encode(), digest_size=4).hexdigest()}"


def drop_databases(server_url: str, names: Iterable[str]) -> None:
    """Drops the databases and ends their connections. Idempotent."""
    with _connected(server_url) as cursor:
        for name in names:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def database_url(server_url: str, name: str) -> str:
    """Returns the URL of another database of the same server."""
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def _make_template(server_url: str, template: str) -> None:
    """Makes the template database. No process may be connected to it. Idempotent, even if several
    processes call this at once.
    """
    part = f"{template}_part"
    with _connected(server_url) as cursor:
        # The lock is held until the connection ends. Other pytest workers wait for the worker that
        # makes the template.
        cursor.execute("SELECT pg_advisory_lock(hashtext(%s))", (template,))
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", (template,))
        if cursor.fetchone() is not None:
            return
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(part)))
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(part)))
        upgrade(database_url(server_url, part))
        cursor.execute(
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(part), sql.Identifier(template))
        )


@contextmanager
def _connected(server_url: str) -> Iterator[Any]:
    url = without_own_options(make_url(server_url))
    options = {**url.translate_connect_args(username="user", database="dbname"), **url.query}
    connection = psycopg2.connect(**options)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()
