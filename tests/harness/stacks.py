"""The servers of a test run: one stack for all tests, and separate stacks for tests that stop servers."""

import itertools
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from redis import Redis

from sluice.db.connection import Session
from sluice.db.delivery.installation import create_installation, read_installation
from sluice.runtime.installation import Installation
from sluice.runtime.schema_name import with_schema
from sluice.runtime.settings import read_schema
from sluice.stack import ServiceName, Stack, StopSignal
from sluice.testing.servers import servers
from sluice.testing.servers.databases import create_database, drop_databases, fresh_database
from sluice.testing.servers.databases import database_url as url_of

# The name of a folder begins with the id of the process that ends the servers in this folder. If this process
# was killed, the next run ends the servers.
FOLDER = Path(__file__).resolve().parents[2] / ".sluice" / "tests"

# Every drop makes a checkpoint, and a checkpoint costs about as much as the creation of the database.
DROPPED_TOGETHER = 16

_numbers = itertools.count(1)


class SharedStack(Stack):
    """The stack of a run. A server starts when the first test needs the server. No test may stop a server.

    Its Postgres runs without fsync. `sluice doctor` reports that, so a test of doctor needs own("postgres").
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._started: set[ServiceName] = set()
        self._databases: list[str] = []

    def start(self, name: ServiceName, *, wipe: bool = False) -> None:
        """Starts the server unless this process has started it before."""
        assert not wipe, f"cannot wipe {name}: other tests use it; mark the test with own({name!r})"
        if name not in self._started:
            super().start(name)
            self._started.add(name)
            if name == "postgres":
                with closing(Session(self.database_url("postgres"), application_name="tests")) as session:
                    # The data of the run are wiped, and no test ends this server.
                    session.command("ALTER SYSTEM SET fsync = off")
                    session.command("SELECT pg_reload_conf()")

    def stop(self, name: ServiceName, *, signal: StopSignal = "term") -> None:
        """Fails the test: a test that stops a server needs a server of its own."""
        raise AssertionError(f"cannot stop {name}: other tests use it; mark the test with own({name!r})")

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yields the URL of a new migrated database. Drops it later, together with others."""
        server_url = in_this_schema(self.database_url("postgres"))
        name = create_database(server_url)
        try:
            yield url_of(server_url, name)
        finally:
            self._databases.append(name)
        if len(self._databases) == DROPPED_TOGETHER:
            drop_databases(server_url, self._databases)
            self._databases.clear()


def shared_root() -> Path:
    """Returns the folder of a run's stack. The calling process owns the folder."""
    return FOLDER / str(os.getpid())


@contextmanager
def own_stack() -> Iterator[Stack]:
    """Yields a stack whose servers do not run yet. Afterwards ends its servers and deletes their data."""
    stack = Stack(FOLDER / f"{os.getpid()}-{next(_numbers)}")
    try:
        yield stack
    finally:
        stack.down(wipe=True)


def end_orphans() -> None:
    """Ends the stacks of processes that were killed before they could end their stacks."""
    servers.end_orphans(FOLDER)


@contextmanager
def database(stack: Stack) -> Iterator[str]:
    """Yields the URL of a new migrated database on a running Postgres."""
    server_url = in_this_schema(stack.database_url("postgres"))
    made = stack.database() if isinstance(stack, SharedStack) else fresh_database(server_url)
    with made as url:
        yield url


def in_this_schema(url: str) -> str:
    """Returns the URL with the schema of this run, which is SLUICE_SCHEMA."""
    return with_schema(url, read_schema())


def install(database_url: str, name: str = "sluice") -> Installation:
    """Creates and returns the installation of the database, as `sluice init` does. Idempotent."""
    with closing(Session(database_url, application_name="test install")) as session:
        create_installation(session, name)
        stored = read_installation(session)
    assert stored is not None
    return stored.installation


def empty_redis(stack: Stack) -> str:
    """Returns the URL of an empty database of a running Redis. No other test of the run gets the same URL."""
    with Redis.from_url(stack.redis_admin_url()) as client:
        number = int(client.incr("databases of tests"))
    with Redis.from_url(stack.redis_admin_url(number)) as client:
        client.flushdb()
    return stack.redis_url(number)
