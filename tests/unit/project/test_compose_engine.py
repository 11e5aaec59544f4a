"""Tests which engine `make compose-test` uses, the error without an engine, and the states of containers."""

from pathlib import Path
from typing import Any

import pytest

from tests.compose.project import Health, NoEngine, find_compose, read_health


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only entry of PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def add_program(folder: Path, name: str, *, refuses: str = "") -> None:
    """Adds a program that succeeds unless one of its arguments is `refuses`."""
    program = folder / name
    refusal = f'for word; do [ "$word" = "{refuses}" ] && {{ echo "no {refuses} here" >&2; exit 1; }}; done\n'
    program.write_text("#!/bin/sh\n" + (refusal if refuses else "") + "exit 0\n")
    program.chmod(0o755)


def test_the_first_engine_that_answers_is_used(programs: Path) -> None:
    add_program(programs, "podman")
    assert find_compose() == ("podman", "compose")
    add_program(programs, "docker-compose")
    assert find_compose() == ("docker-compose",)
    add_program(programs, "docker")
    assert find_compose() == ("docker", "compose")


@pytest.mark.parametrize("lacking", ["compose", "config", "ps"], ids=["no plugin", "too old", "no engine"])
def test_an_engine_that_cannot_start_the_services_is_not_used(programs: Path, lacking: str) -> None:
    add_program(programs, "docker", refuses=lacking)
    add_program(programs, "podman")
    assert find_compose() == ("podman", "compose")


def test_the_error_without_an_engine_names_what_to_install_and_what_failed(programs: Path) -> None:
    with pytest.raises(NoEngine, match=r"install Docker with its Compose plugin, or Podman"):
        find_compose()
    add_program(programs, "docker", refuses="ps")
    with pytest.raises(NoEngine, match=r"; `docker compose ps` failed: no ps here$"):
        find_compose()


@pytest.mark.parametrize(
    ("state", "health"),
    [
        ({"Status": "created", "ExitCode": 0}, "starting"),
        ({"Status": "running", "Health": {"Status": "starting"}}, "starting"),
        ({"Status": "running", "Health": {"Status": "healthy"}}, "healthy"),
        ({"Status": "running", "Healthcheck": {"Status": "healthy"}}, "healthy"),
        ({"Status": "running", "Health": {"Status": "unhealthy"}}, "unhealthy"),
        ({"Status": "restarting", "ExitCode": 1, "Health": {"Status": "unhealthy"}}, "starting"),
        ({"Status": "exited", "ExitCode": 0, "Health": {"Status": "healthy"}}, "done"),
        ({"Status": "exited", "ExitCode": 137, "Health": {"Status": "healthy"}}, "failed"),
    ],
)
def test_the_state_of_a_container_is_read(state: dict[str, Any], health: Health) -> None:
    assert read_health(state) == health
