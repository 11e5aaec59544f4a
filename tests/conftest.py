"""Fixtures for tests that need real servers. One test run shares a stack of Postgres, Redis and Kafka."""

import os
import signal
from collections import Counter
from collections.abc import Generator, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from sluice.stack import ComponentMissing, ServiceName, Stack
from sluice.testing.servers.servers import Servers
from tests.harness import stacks

STACK_ROOT = pytest.StashKey[Path]()
LEAST_RIGHTS = "--least-rights"
SLOWEST_FIRST = ("system", "simulation", "db")

# The machine may be busy, so a slow example does not fail.
settings.register_profile("sluice", deadline=None)
settings.load_profile("sluice")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option with which processes of the system tests have roles of least rights."""
    parser.addoption(
        LEAST_RIGHTS,
        action="store_true",
        help="run the system tests that start processes, and give each process a role of least rights",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Chooses the folder of the run's stack. If the run receives SIGTERM, the servers are ended, too."""
    # Each broker runs for a few minutes. Full compilation would take half of its CPU time for little gain.
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=128 + signal.SIGTERM))
    # A shell starts a command in the background with SIGINT ignored, and the processes of the tests would
    # inherit this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        config.stash[STACK_ROOT] = Path(workerinput["stack_root"])
        return
    stacks.end_orphans()
    config.stash[STACK_ROOT] = stacks.shared_root()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Passes the folder of the run's stack to each pytest worker."""
    node.workerinput["stack_root"] = str(node.config.stash[STACK_ROOT])


def pytest_unconfigure(config: pytest.Config) -> None:
    """After the last pytest worker, ends the run's stack, and the stacks of killed pytest workers."""
    if not hasattr(config, "workerinput") and STACK_ROOT in config.stash:
        Stack(config.stash[STACK_ROOT]).down(wipe=True)
        stacks.end_orphans()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the notes of the tests, and the number of seeds that each simulation ran."""
    drawn: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", ()):
        for name, value in report.user_properties:
            if name == "note":
                terminalreporter.write_line(value)
            if name == "seeds":
                drawn[report.nodeid.partition("[")[0]] += value
    for test, count in drawn.items():
        terminalreporter.write_line(f"{count} seeds: {test}")


def pytest_xdist_auto_num_workers() -> int:
    """Returns the number of cores plus two for `-n auto`, because tests wait a part of the time."""
    return (os.cpu_count() or 1) + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the tests so that every pytest worker begins with slow tests.

    pytest-xdist gives each worker an equal part of the list. In the order of collection, one worker would get
    all slow tests, and the other workers would wait for this worker at the end. The tests of one file stay
    together because they share fixtures. Only files of short tests, outside SLOWEST_FIRST, are split to make
    the parts equal.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers == 1:
        return
    parts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for (rank, _), file in groupby(sorted(items, key=_rank), key=_rank):
        for together in [[one] for one in file] if rank == len(SLOWEST_FIRST) else [list(file)]:
            min(parts, key=len).extend(together)
    items[:] = chain(*sorted(parts, key=len))


def _rank(item: pytest.Item) -> tuple[int, str]:
    room = item.nodeid.split("/")[1]
    return SLOWEST_FIRST.index(room) if room in SLOWEST_FIRST else len(SLOWEST_FIRST), str(item.path)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Generator[None, object, object]:
    """Skips a test whose fixture needs a program that is not installed."""
    return (yield from _skip_without_component())


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Skips a test if the test, not a fixture, finds that a program is not installed."""
    return (yield from _skip_without_component())


def _skip_without_component() -> Generator[None, object, object]:
    try:
        return (yield)
    except ComponentMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def shared_stack(pytestconfig: pytest.Config) -> Stack:
    """The run's stack, with no server started."""
    return stacks.SharedStack(pytestconfig.stash[STACK_ROOT])


@pytest.fixture(scope="session")
def sluice_servers(shared_stack: Stack) -> Servers:
    """Makes the fixtures of Sluice's pytest plugin use the run's stack."""
    return Servers(shared_stack, {})


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """A stack for this test only. Only the servers that the mark `own` names are started."""
    with stacks.own_stack() as stack:
        yield stack


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> Stack:
    """The stack whose Postgres the test uses, with Postgres running."""
    return _running("postgres", request)


@pytest.fixture
def redis(request: pytest.FixtureRequest) -> Stack:
    """The stack whose Redis the test uses, with Redis running."""
    return _running("redis", request)


@pytest.fixture
def kafka(request: pytest.FixtureRequest) -> Stack:
    """The stack whose Kafka the test uses, with Kafka running."""
    return _running("kafka", request)


def _running(name: ServiceName, request: pytest.FixtureRequest) -> Stack:
    own = any(name in mark.args for mark in request.node.iter_markers("own"))
    stack: Stack = request.getfixturevalue("own_stack" if own else "shared_stack")
    stack.start(name)
    return stack


@pytest.fixture
def database_url(postgres: Stack) -> Iterator[str]:
    """The URL of a migrated database that only this test uses."""
    with stacks.database(postgres) as url:
        yield url


@pytest.fixture
def redis_url(redis: Stack) -> str:
    """The URL of an empty Redis database that only this test uses."""
    return stacks.empty_redis(redis)
