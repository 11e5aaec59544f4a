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
from sluice.stack import ServiceName, Stack, StopSignal
from sluice.testing.servers import servers
from sluice.testing.servers.databases import fresh_database

# The name of a folder begins with the id of the process that ends the servers in this folder. If this process
# was killed, the next run ends the servers.
FOLDER = Path(__file__).resolve().parents[2] / ".sluice" / "tests"

_numbers = itertools.count(1)


class SharedStack(Stack):
    """The stack of a run. A server starts when the first test needs the server. No test may stop a server."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._started: set[ServiceName] = set()

    def start(self, name: ServiceName, *, wipe: bool = False) -> None:
        """Starts the server unless this process has started it before."""
        assert not wipe, f"cannot wipe {name}: other tests use it; mark the test with own({name!r})"
        if name not in self._started:
            super().start(name)
            self._started.add(name)

    def stop(self, name: ServiceName, *, signal: StopSignal = "term") -> None:
        """Fails the test: a test that stops a server needs a server of its own."""
        raise AssertionError(f"cannot stop {name}: other tests use it; mark the test with own({name!r})")


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
    with fresh_database(stack.database_url("postgres")) as url:
        yield url


def install(database_url: str, name: str = "sluice") -> Installation:
    """Creates and returns the installation of the database, as `sluice init` does. Idempotent."""
    with closing(Session(database_url, application_name="test install")) as session:
        create_installation(session, name)
        stored = read_installation(session)
    assert stored is not None
    return stored.installation


def empty_redis(stack: Stack) -> str:
    """Returns the URL of an empty database of a running Redis. No other test of the run gets the same URL."""
    with Redis.from_url(stack.redis_url()) as client:
        number = int(client.incr("databases of tests"))
    url = stack.redis_url(number)
    with Redis.from_url(url) as client:
        client.flushdb()
    return url
