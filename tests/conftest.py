"""Real services for the tests that ask for them: one stack per session, a database of its own per test."""

import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg2
import pytest
import redis as redis_client
from hypothesis import settings
from psycopg2 import sql
from sqlalchemy.engine import make_url

from sluice.stack import Stack
from sluice.stack.redis_server import DATABASES

PROJECT = Path(__file__).resolve().parent.parent
# A folder per session, named by its process: so the next session finds what a killed one left running.
SESSIONS = PROJECT / ".sluice" / "tests"
TEMPLATE = "sluice_template"

_numbers = itertools.count(1)


# A busy machine is a normal machine: no example fails for having been slow.
settings.register_profile("sluice", deadline=None)
settings.load_profile("sluice")


def pytest_configure(config: pytest.Config) -> None:
    """A terminated session still tears its services down."""
    # Brokers of a minute each: half of their CPU would be spent on compiling what is hardly used again.
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=128 + signal.SIGTERM))


def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: one more than there are cores, for a quarter of the time is spent waiting."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The session's stack, with nothing started yet; what was started has ended afterwards."""
    end_orphans()
    session = Stack(SESSIONS / str(os.getpid()))
    try:
        yield session
    finally:
        session.down(wipe=True)


def end_orphans() -> None:
    """Ends the stacks of sessions that were killed before they could."""
    for folder in SESSIONS.glob("*"):
        try:
            os.kill(int(folder.name), 0)
        except ProcessLookupError:
            Stack(folder).down(wipe=True)
            shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:
            continue


@pytest.fixture(scope="session")
def postgres(stack: Stack) -> Stack:
    """The stack with Postgres running."""
    stack.start("postgres")
    return stack


@pytest.fixture(scope="session")
def redis(stack: Stack) -> Stack:
    """The stack with Redis running."""
    stack.start("redis")
    return stack


@pytest.fixture(scope="session")
def kafka(stack: Stack) -> Stack:
    """The stack with Kafka running."""
    stack.start("kafka")
    return stack


@pytest.fixture(scope="session")
def template_database(postgres: Stack) -> str:
    """The name of a database with all migrations applied, to be copied and never to be connected to."""
    from sluice.db.migrations.migrate import upgrade

    _administer(postgres, "CREATE DATABASE {}", TEMPLATE)
    upgrade(postgres.database_url(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres: Stack, template_database: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    name = f"test_{next(_numbers)}"
    postgres.start("postgres")  # The test before may have stopped it.
    _administer(postgres, f"CREATE DATABASE {{}} TEMPLATE {template_database}", name)
    yield postgres.database_url(name)
    # A test that leaves Postgres stopped has nothing to drop; its database goes with the session's stack.
    with suppress(psycopg2.OperationalError):
        _administer(postgres, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


@pytest.fixture
def redis_url(redis: Stack) -> str:
    """An empty Redis database of the test's own."""
    redis.start("redis")  # The test before may have stopped it.
    url = redis.redis_url(1 + next(_numbers) % (DATABASES - 1))
    with redis_client.Redis.from_url(url) as client:
        client.flushdb()
    return url


def _administer(stack: Stack, statement: str, name: str) -> None:
    url = make_url(stack.database_url("postgres"))
    connection = psycopg2.connect(host=url.host, port=url.port, user=url.username, dbname=url.database)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL(statement).format(sql.Identifier(name)))
    finally:
        connection.close()
