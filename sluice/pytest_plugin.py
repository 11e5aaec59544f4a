"""The pytest plugin: fixtures for tests of handlers. It imports the slow modules only when a test
uses a fixture.

It is not in `sluice.testing`, because the import of `sluice.testing` loads SQLAlchemy.
"""

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sluice.testing import World
    from sluice.testing.servers.postgres_world import PostgresWorld
    from sluice.testing.servers.servers import Servers

HANDLERS = "sluice_handlers"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that names the modules of the handlers."""
    parser.addini(
        HANDLERS, "modules with handlers for sluice_world and sluice_stack (default: SLUICE_HANDLERS)"
    )


@pytest.fixture
def sluice_world(pytestconfig: pytest.Config) -> "World":
    """A world in memory with the handlers that the option `sluice_handlers` names."""
    from sluice.testing import World

    return World(*handler_modules(pytestconfig))


@pytest.fixture
def sluice_stack(pytestconfig: pytest.Config, sluice_servers: "Servers") -> "Iterator[PostgresWorld]":
    """A world with its own database in a real Postgres, which enforces constraints and triggers."""
    from sluice.testing.servers.postgres_world import postgres_world

    with sluice_servers.database() as url, postgres_world(url, *handler_modules(pytestconfig)) as world:
        yield world


@pytest.fixture(scope="session")
def sluice_servers(pytestconfig: pytest.Config) -> "Iterator[Servers]":
    """The servers of this run. They start when needed, unless the environment has the addresses of
    servers.
    """
    from sluice.testing.servers.servers import own_servers

    with own_servers(pytestconfig.rootpath) as servers:
        yield servers


def handler_modules(config: pytest.Config) -> list[str]:
    """Returns the modules of the option, else the modules of SLUICE_HANDLERS. Raises UsageError if
    there are none.
    """
    names = config.getini(HANDLERS) or os.environ.get("SLUICE_HANDLERS", "")
    found = [name for name in re.split(r"[\s,]+", names) if name]
    if not found:
        raise pytest.UsageError(
            "no modules with handlers are set for the fixtures of Sluice: set sluice_handlers in the"
            " pytest section of"
            " pyproject.toml to the names of their modules, or set SLUICE_HANDLERS"
        )
    return found
