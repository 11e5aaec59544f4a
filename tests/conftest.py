"""Real services for the tests that ask for them: one stack per run, a database of its own per test."""

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
SLOWEST_FIRST = ("system", "simulation", "db")

# A busy machine is a normal machine: no example fails for having been slow.
settings.register_profile("sluice", deadline=None)
settings.load_profile("sluice")


def pytest_configure(config: pytest.Config) -> None:
    """Names the folder of the run's stack. A terminated run still ends its services."""
    # Brokers of some minutes each: half of their CPU would be spent on compiling what is hardly used again.
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=128 + signal.SIGTERM))
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        config.stash[STACK_ROOT] = Path(workerinput["stack_root"])
        return
    stacks.end_orphans()
    config.stash[STACK_ROOT] = stacks.shared_root()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Gives each pytest worker the stack of the run."""
    node.workerinput["stack_root"] = str(node.config.stash[STACK_ROOT])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the run's stack after the last worker, and what killed workers left."""
    if not hasattr(config, "workerinput") and STACK_ROOT in config.stash:
        Stack(config.stash[STACK_ROOT]).down(wipe=True)
        stacks.end_orphans()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the notes of tests, and how many seeds each simulation had time for."""
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
    """For `-n auto`: three more than there are cores, because more than half of the time is spent waiting."""
    return (os.cpu_count() or 1) + 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deals the tests to the pytest workers, each of which begins with those on whole deployments.

    Each worker gets an equal part of the list. As it is collected one part has all slow tests, and at the end
    of a run the others wait for it. Tests of one file stay together, for what they share; those of the last
    room are short, and make the parts equal.
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
    """Skips a test that itself needs a program that is not installed."""
    return (yield from _skip_without_component())


def _skip_without_component() -> Generator[None, object, object]:
    try:
        return (yield)
    except ComponentMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def shared_stack(pytestconfig: pytest.Config) -> Stack:
    """The run's stack; nothing is started yet."""
    return stacks.SharedStack(pytestconfig.stash[STACK_ROOT])


@pytest.fixture(scope="session")
def sluice_servers(shared_stack: Stack) -> Servers:
    """For the fixtures of the plugin: the run's stack, instead of one of the plugin's own."""
    return Servers(shared_stack, {})


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """A stack of this test alone, with nothing started but what the mark `own` names."""
    with stacks.own_stack() as stack:
        yield stack


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> Stack:
    """The stack whose Postgres the test uses; it runs."""
    return _running("postgres", request)


@pytest.fixture
def redis(request: pytest.FixtureRequest) -> Stack:
    """The stack whose Redis the test uses; it runs."""
    return _running("redis", request)


@pytest.fixture
def kafka(request: pytest.FixtureRequest) -> Stack:
    """The stack whose Kafka the test uses; it runs."""
    return _running("kafka", request)


def _running(name: ServiceName, request: pytest.FixtureRequest) -> Stack:
    own = any(name in mark.args for mark in request.node.iter_markers("own"))
    stack: Stack = request.getfixturevalue("own_stack" if own else "shared_stack")
    stack.start(name)
    return stack


@pytest.fixture
def database_url(postgres: Stack) -> Iterator[str]:
    """A migrated database of the test's own."""
    with stacks.database(postgres) as url:
        yield url


@pytest.fixture
def redis_url(redis: Stack) -> str:
    """An empty Redis database of the test's own."""
    return stacks.empty_redis(redis)
