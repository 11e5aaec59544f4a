"""The servers of one test run: the servers whose addresses are in the environment, else new
servers, started when needed.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import psycopg2

from sluice.runtime.schema_name import with_schema
from sluice.runtime.service_urls import DATABASE_URL, StackUrls
from sluice.runtime.settings import read_schema
from sluice.stack import Stack, external_urls
from sluice.testing.servers.databases import TEMPLATE, drop_databases, fresh_database, template_of

# The name of a folder begins with the id of the process that ends its servers, so the next run finds servers
# that a killed run left.
FOLDER = Path(".sluice") / "pytest"


class Servers:
    """Provides a Postgres, and, for tests that start processes, all three servers."""

    def __init__(self, stack: Stack, environ: Mapping[str, str], *, template: str = TEMPLATE) -> None:
        """`stack` is used if the environment has no addresses of servers. `template` is the
        database to copy.
        """
        self._stack = stack
        self._environ = environ
        self._template = template

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yields the URL of a new migrated database, which is dropped afterwards."""
        with fresh_database(self._server_url, template=self._template) as url:
            yield url

    def urls(self, database_url: str) -> StackUrls:
        """Returns the addresses of all three servers, with this database. Raises StackError."""
        named = external_urls(self._environ)
        if named is None:
            self._stack.start("redis")
            self._stack.start("kafka")
            named = self._stack.urls()
        return replace(named, database_url=database_url)

    def drop_template(self) -> None:
        """Drops the template database if it is on a Postgres server that this run did not start."""
        if self._environ.get(DATABASE_URL):
            with suppress(psycopg2.OperationalError):
                drop_databases(self._server_url, [template_of(self._server_url, self._template)])

    @cached_property
    def _server_url(self) -> str:
        named = self._environ.get(DATABASE_URL)
        if not named:
            self._stack.start("postgres")
            named = self._stack.database_url("postgres")
        return with_schema(named, read_schema(self._environ))


@contextmanager
def own_servers(folder: Path) -> Iterator[Servers]:
    """Yields the servers of this process. Afterwards deletes the servers that it started, and their data."""
    end_orphans(folder / FOLDER)
    stack = Stack(folder / FOLDER / str(os.getpid()))
    servers = Servers(stack, os.environ, template=f"{TEMPLATE}_{os.getpid()}")
    try:
        yield servers
    finally:
        servers.drop_template()
        stack.down(wipe=True)


def end_orphans(folder: Path) -> None:
    """Ends the stacks of processes that were killed before they could end them."""
    for stack in folder.glob("*"):
        try:
            os.kill(int(stack.name.partition("-")[0]), 0)
        except ProcessLookupError:
            Stack(stack).down(wipe=True)
            shutil.rmtree(stack, ignore_errors=True)
        except PermissionError:
            continue
