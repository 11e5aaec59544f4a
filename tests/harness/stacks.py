"""The servers of one test run: a stack that all tests share, and stacks that a single test may harm."""

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

# A folder begins with the id of the process that ends its servers: so the next run finds what a killed one
# left running.
FOLDER = Path(__file__).resolve().parents[2] / ".sluice" / "tests"

_numbers = itertools.count(1)


class SharedStack(Stack):
    """The stack of a run. Its servers start when the first test needs them, and no test may stop one."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._started: set[ServiceName] = set()

    def start(self, name: ServiceName, *, wipe: bool = False) -> None:
        """Starts the server unless this process has seen it running."""
        assert not wipe, f"other tests use this {name}: mark the test with own({name!r})"
        if name not in self._started:
            super().start(name)
            self._started.add(name)

    def stop(self, name: ServiceName, *, signal: StopSignal = "term") -> None:
        """Fails the test: a server of its own is what it needs."""
        raise AssertionError(f"other tests use this {name}: mark the test with own({name!r})")


def shared_root() -> Path:
    """The folder of a run's stack. The calling process owns it."""
    return FOLDER / str(os.getpid())


@contextmanager
def own_stack() -> Iterator[Stack]:
    """A stack with nothing started. All its servers and data are gone afterwards."""
    stack = Stack(FOLDER / f"{os.getpid()}-{next(_numbers)}")
    try:
        yield stack
    finally:
        stack.down(wipe=True)


def end_orphans() -> None:
    """Ends the stacks of processes that were killed before they could."""
    servers.end_orphans(FOLDER)


@contextmanager
def database(stack: Stack) -> Iterator[str]:
    """The URL of a migrated database of its own on a running Postgres."""
    with fresh_database(stack.database_url("postgres")) as url:
        yield url


def install(database_url: str, name: str = "sluice") -> Installation:
    """Makes the database's installation, as `sluice init` does, and returns it. Idempotent."""
    with closing(Session(database_url, application_name="test install")) as session:
        create_installation(session, name)
        stored = read_installation(session)
    assert stored is not None
    return stored.installation


def empty_redis(stack: Stack) -> str:
    """The URL of an empty database of a running Redis that no other test of the run gets."""
    with Redis.from_url(stack.redis_url()) as client:
        number = int(client.incr("databases of tests"))
    url = stack.redis_url(number)
    with Redis.from_url(url) as client:
        client.flushdb()
    return url
