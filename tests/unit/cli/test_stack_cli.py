"""`sluice stack` and the hints of `sluice dev`, without servers."""

import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sluice.cli import hints
from sluice.cli.dev_servers import DevServers
from sluice.cli.main import app
from sluice.runtime.service_urls import StackUrls
from sluice.stack import ServiceStatus, Stack
from tests.unit.stack.test_stack import URLS, make_stopped_stack

UNSET = "unset SLUICE_DATABASE_URL SLUICE_REDIS_URL SLUICE_KAFKA_BOOTSTRAP_SERVERS"
OWN = str(Path(sys.executable).with_name("sluice"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the current folder, in an environment without settings."""
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_project(folder: Path) -> None:
    for name in ("sluice.lock", "Makefile"):
        (folder / name).touch()


def running(name: str) -> ServiceStatus:
    return ServiceStatus(name, "running", 1, 1, Path("data"), Path("log"))  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["up", "env"])
def test_other_addresses_are_printed_unchanged(command: str) -> None:
    result = CliRunner().invoke(app, ["stack", command], env=URLS)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"export {name}={url}" for name, url in URLS.items()]
    assert (UNSET in result.stderr) == (command == "up")


def test_up_starts_the_stack_whose_addresses_the_terminal_keeps(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_stopped_stack(folder / ".sluice/stack")
    stack, started = Stack(folder / ".sluice/stack"), []

    def start(self: Stack) -> StackUrls:
        started.append(self.root)
        return self.urls()

    monkeypatch.setattr(Stack, "up", start)
    result = CliRunner().invoke(app, ["stack", "up"], env=stack.environ())
    assert (result.exit_code, result.stderr, started) == (0, "", [stack.root])


@pytest.mark.parametrize(
    ("is_project", "hint"), [(True, "make dev"), (False, f"{OWN} dev, or: {OWN} stack up")]
)
def test_env_starts_no_service_and_reports_stopped_services(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_project: bool, hint: str
) -> None:
    monkeypatch.setenv("PATH", "")
    make_stopped_stack(folder / ".sluice/stack")
    if is_project:
        make_project(folder)
    result = CliRunner().invoke(app, ["stack", "env"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"sluice stack: kafka, postgres and redis do not run; start them with: {hint}\n"


def test_the_command_is_named_as_the_shell_finds_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binaries = folder / ".venv/bin"
    binaries.mkdir(parents=True)
    (binaries / "sluice").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(binaries / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    assert hints.own_command() == ".venv/bin/sluice"
    assert hints.wipe_hint() == "to begin with an empty database: .venv/bin/sluice stack down --wipe"
    assert hints.shell_hint("shop.handlers", are_local=True) == (
        "for commands in another terminal: export SLUICE_HANDLERS=shop.handlers;"
        ' eval "$(.venv/bin/sluice stack up)"'
    )
    monkeypatch.setenv("PATH", str(binaries))
    assert hints.own_command() == "sluice"
    (folder / "sluice").touch(mode=0o755)  # of another installation
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{binaries}")
    assert hints.own_command() == ".venv/bin/sluice"
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir("/usr")
    assert hints.own_command() == str(binaries / "sluice")


def test_in_a_project_hints_name_targets_of_its_makefile(folder: Path) -> None:
    make_project(folder)
    assert hints.shell_hint("shop.handlers", are_local=True) == "for commands in another terminal: make shell"
    assert hints.stop_hint() == "to stop them: make stop"
    assert hints.wipe_hint() == "to begin with an empty database: make wipe"


@pytest.mark.parametrize(
    ("before", "last_line"),
    [
        ([], "everything has ended"),
        (["redis"], "all processes have ended; redis still runs; to stop them: make stop"),
        (
            ["kafka", "postgres", "redis"],
            "all processes have ended; kafka, postgres and redis still run; to stop them: make stop",
        ),
    ],
)
def test_dev_ends_with_a_line_about_the_servers_that_still_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, before: list[str], last_line: str
) -> None:
    make_project(folder)
    monkeypatch.setattr(Stack, "status", lambda _: [running(name) for name in before])
    servers = DevServers({}, lambda _: None)
    assert servers.are_local
    assert servers.last_line() == last_line


def test_dev_starts_no_server_if_the_environment_names_other_servers() -> None:
    lines: list[str] = []
    servers = DevServers(URLS, lines.append)
    with servers.running() as urls:
        assert urls.environ() == URLS
    assert lines == [f"the environment names other servers: none started; to use the local stack: {UNSET}"]
    assert "that the environment names were not stopped" in servers.last_line()
    assert "variables SLUICE_" in hints.shell_hint("h", are_local=servers.are_local)
