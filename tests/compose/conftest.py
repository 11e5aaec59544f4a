"""The project that each test starts in the container engine."""

import os
from pathlib import Path

import pytest

from sluice.stack.ports import choose_ports
from tests.compose.project import ComposeProject, NoEngine, find_compose
from tests.compose.steps import PORT_NAMES, write_env_file


@pytest.fixture
def project(tmp_path: Path) -> ComposeProject:
    """Returns a project that is not started yet, with passwords of all printable characters."""
    try:
        compose = find_compose()
    except NoEngine as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    ports = {name: str(port) for name, port in choose_ports(PORT_NAMES, {}, set()).items()}
    env_file = tmp_path / "passwords.env"
    write_env_file(env_file)
    return ComposeProject(compose, f"sluice-test-{os.getpid()}", ports, (env_file,))
