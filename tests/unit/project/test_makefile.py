"""The Makefiles of the clone and of a project, run with programs that stand for Python and for sluice."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sluice.project.new_project import Names, create_project, is_project
from tests.compose.project import PASSWORD_NAMES

ROOT = Path(__file__).parents[3]
NO_SERVERS = "echo the servers do not run >&2; exit 2"
ADDRESSES = "echo export SLUICE_REDIS_URL=redis://here/0"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my-shop"
    create_project(folder, Names("my-shop", "my_shop"), version="9.9", make_wheel=None)
    return folder


def make(folder: Path, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SLUICE_", "MAKE"))}
    return subprocess.run(
        ["make", *words],
        cwd=folder,
        env=environ | {"SHELL": "/bin/sh"},
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )


def install_fake(folder: Path, stack_env: str) -> Path:
    """Makes a .venv whose `sluice` runs this script for `stack env`. Returns the log of other commands."""
    binaries, log = folder / ".venv/bin", folder / "log"
    binaries.mkdir(parents=True)
    for name in ("sluice", "python"):
        others = f'echo {name} "$@" >> {log}'
        script = f'#!/bin/sh\nif [ "$1 $2" = "stack env" ]; then {stack_env}; else {others}; fi\n'
        (binaries / name).write_text(script)
        (binaries / name).chmod(0o755)
    (folder / ".venv/.installed").touch()
    return log


def test_a_project_is_recognised(project: Path, tmp_path: Path) -> None:
    assert is_project(project)
    assert not is_project(tmp_path)


@pytest.mark.parametrize("target", ["send", "show", "status", "shell"])
def test_without_servers_a_target_that_uses_them_runs_nothing(project: Path, target: str) -> None:
    log = install_fake(project, NO_SERVERS)
    done = make(project, target, typed="sluice begin\n")
    assert done.returncode == 2
    assert "the servers do not run\n" in done.stderr
    assert not log.exists()


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("send", "sluice send events.jsonl"),
        ("show", "python -m my_shop.show"),
        ("status", "sluice status"),
        ("stop", "sluice stack down"),
        ("wipe", "sluice stack down --wipe"),
    ],
)
def test_each_target_runs_its_command(project: Path, target: str, command: str) -> None:
    log = install_fake(project, ADDRESSES)
    assert make(project, target).returncode == 0
    assert log.read_text() == f"{command}\n"


def test_a_shell_has_the_settings_the_addresses_and_the_command(project: Path) -> None:
    log = install_fake(project, ADDRESSES)
    done = make(
        project, "shell", typed='sluice dlq ls "$SLUICE_HANDLERS" "$SLUICE_REDIS_URL"; make status; false\n'
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert log.read_text().splitlines() == ["sluice dlq ls my_shop.handlers redis://here/0", "sluice status"]
    assert "Entering directory" not in done.stdout


def test_containers_start_with_passwords_that_are_drawn_one_time(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binaries, log = tmp_path / "bin", tmp_path / "log"
    binaries.mkdir()
    docker = binaries / "docker"
    drawn = " ".join(f"${name}" for name in PASSWORD_NAMES)
    docker.write_text(f'#!/bin/sh\necho "$2 {drawn}" >> {log}\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    assert make(project, "help").returncode == 0
    file = project / ".passwords.env"
    assert not file.exists()
    for target in ("up", "down", "up"):
        done = make(project, target)
        assert (done.returncode, done.stderr) == (0, "")
        assert not [password for password in log.read_text().split() if password in done.stdout]
    commands = [line.split() for line in log.read_text().splitlines()]
    assert [command for command, *_ in commands] == ["up", "down", "up"]
    [passwords] = {tuple(passwords) for _, *passwords in commands}
    assert len(set(passwords)) == len(PASSWORD_NAMES)
    assert {len(password) for password in passwords} == {48}
    assert file.stat().st_mode & 0o077 == 0
    assert ".passwords.env" in (project / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("whose", ["project", "clone"])
def test_a_python_without_venv_is_reported_with_the_package_to_install(
    project: Path, tmp_path: Path, whose: str
) -> None:
    folder = project if whose == "project" else tmp_path
    if whose == "clone":
        for name in ("Makefile", "requirements.lock"):
            shutil.copy(ROOT / name, folder)
    python = tmp_path / "python-without-venv"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 1\necho traceback\n')
    python.chmod(0o755)
    done = make(folder, "install", f"PYTHON={python}")
    assert done.returncode == 2
    assert "cannot make virtual environments: install its venv module" in done.stderr
    assert "traceback" not in done.stdout
    assert not (folder / ".venv").exists()
