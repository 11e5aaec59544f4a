"""Tests how `sluice dev` shows log lines, and which files `sluice dev` watches. Starts no process."""

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sluice.cli.dev import environment
from sluice.cli.dev_log import LogLine, read_lines, uses_colour
from sluice.cli.dev_processes import SLUICE, Command, commands
from sluice.cli.dev_sources import (
    Sources,
    changed_files,
    files_to_watch,
    fingerprint,
    is_source,
)
from sluice.cli.main import app
from tests.unit.docs.command_lines import parse

HANDLERS = """
from sluice import Entity, Topic
from . import prices
topics = (Topic("orders", entity=Entity("order"), ignores=("order.viewed",)),)
"""


def imported(folder: Path, names: str = "shop.handlers") -> Sources:
    """Returns the sources that a process finds when it imports the handlers in this folder."""
    answer = folder / "answer.json"
    environ = {"SLUICE_HANDLERS": names, "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(
        [sys.executable, "-m", "sluice.cli.dev_sources", str(answer)], cwd=folder, env=environ, check=True
    )
    return msgspec.json.decode(answer.read_text(), type=Sources)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "handlers.py").write_text(HANDLERS)
    (package / "prices.py").touch()
    (package / "unused.py").touch()
    return tmp_path


def test_a_structured_log_line_is_shown_as_text_with_its_fields() -> None:
    raw = {"event": "bridge started", "topics": ["a"], "name": "x y", "level": "warning", "process": "bridge"}
    assert read_lines(json.dumps(raw)) == [
        LogLine('--:--:-- warning bridge started topics=["a"] name="x y"', "yellow")
    ]


def test_a_traceback_keeps_its_lines() -> None:
    raw = {"event": "failed", "level": "error", "exception": "Traceback\n  File"}
    assert [line.text for line in read_lines(json.dumps(raw))] == [
        "--:--:-- error   failed",
        "  Traceback",
        "    File",
    ]


@pytest.mark.parametrize("raw", ["Traceback (most recent call last):", "", "7", '{"a": 1}', '{"event": 3}'])
def test_a_line_that_is_not_a_log_line_is_shown_unchanged(raw: str) -> None:
    assert read_lines(raw) == [LogLine(raw)]


@pytest.mark.parametrize("event", ["self-check", "purged"])
def test_a_report_at_intervals_is_shown_only_if_a_figure_is_not_0(event: str) -> None:
    raw = {"event": event, "level": "info", "process": "relay", "dead_letters": 0, "pending_calls": 0}
    assert read_lines(json.dumps(raw)) == []
    assert read_lines(json.dumps(raw | {"pending_calls": 2})) != []
    assert read_lines(json.dumps(raw | {"level": "warning"})) != []
    assert read_lines(json.dumps(raw | {"event": "batch applied"})) != []


def test_dev_hides_the_warning_about_root_and_keeps_other_filters() -> None:
    code = 'import warnings; warnings.warn("You\'re running the worker with superuser privileges: this")'
    environ = environment({"PATH": "", "PYTHONWARNINGS": "error::UserWarning", "SLUICE_METRICS_PORT": "1"})
    assert "SLUICE_METRICS_PORT" not in environ
    other = code.replace("superuser", "few")
    ended = [
        subprocess.run([sys.executable, "-c", c], env=environ, capture_output=True) for c in (code, other)
    ]
    assert [(one.returncode, one.stderr[:9]) for one in ended] == [(0, b""), (1, b"Traceback")]


@given(
    st.text()
    | st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text())).map(json.dumps)
    | st.builds(
        lambda at: json.dumps({"event": "x", "timestamp": at, "level": at}), st.text() | st.integers()
    )
)
def test_every_printed_line_is_shown(raw: str) -> None:
    assert read_lines(raw)


def test_the_time_is_shown_in_the_local_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Etc/GMT-2")
    time.tzset()
    try:
        raw = {"event": "x", "level": "info", "timestamp": "2026-01-31T10:00:05.5Z"}
        assert read_lines(json.dumps(raw)) == [LogLine("12:00:05 info    x")]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("environ", "is_terminal", "coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colours_are_used_only_on_terminals(
    environ: dict[str, str], is_terminal: bool, coloured: bool
) -> None:
    assert uses_colour(environ, is_terminal=is_terminal) is coloured


def test_the_handlers_and_the_modules_that_they_import_are_watched(folder: Path) -> None:
    found = imported(folder)
    assert found == Sources(("shop/__init__.py", "shop/handlers.py", "shop/prices.py"))
    assert files_to_watch(found, [], folder) == set(found.files)


def test_a_file_that_cannot_be_imported_is_watched_with_the_other_files_of_its_folder(folder: Path) -> None:
    (folder / "shop/prices.py").write_text("def (")
    found = imported(folder)
    assert found.error is not None
    assert "SyntaxError" in found.error
    files = [line.strip() for line in found.error.splitlines() if line.startswith("  File")]
    # The frames of Python and Sluice are omitted.
    assert files == [
        f'File "{folder}/shop/handlers.py", line 3, in <module>',
        f'File "{folder}/shop/prices.py", line 1',
    ]
    assert "shop/prices.py" in found.files
    # A new file is reported, because it may be a module that was missing.
    before = fingerprint(files_to_watch(found, [], folder), folder)
    (folder / "shop/new.py").touch()
    after = fingerprint(files_to_watch(found, [], folder), folder)
    assert changed_files(before, after) == ["shop/new.py"]


@pytest.mark.parametrize(("code", "message"), [("import nowhere", "nowhere"), ("raise SystemExit(3)", "3")])
def test_the_reason_why_the_handlers_cannot_be_imported_is_reported(
    folder: Path, code: str, message: str
) -> None:
    (folder / "shop/prices.py").write_text(code)
    error = imported(folder).error
    assert error is not None
    assert message in error


def test_handlers_that_print_during_their_import_are_found(folder: Path) -> None:
    (folder / "shop/prices.py").write_text("print('{}')")
    assert imported(folder).error is None


def test_without_handlers_the_message_names_the_setting(folder: Path) -> None:
    error = imported(folder, "").error
    assert error is not None
    assert "SLUICE_HANDLERS" in error


def test_saved_and_deleted_files_are_reported_as_changed(tmp_path: Path) -> None:
    for name in ("same.py", "saved.py", "deleted.py"):
        (tmp_path / name).touch()
    files = ["same.py", "saved.py", "deleted.py", "missing.py"]
    before = fingerprint(files, tmp_path)
    (tmp_path / "saved.py").write_text("x = 1")
    (tmp_path / "deleted.py").unlink()
    assert changed_files(before, fingerprint(files, tmp_path)) == ["deleted.py", "saved.py"]


def test_files_of_installed_packages_are_not_watched() -> None:
    folder = Path(sys.prefix).parent
    assert not is_source(Path(msgspec.__file__), folder)
    assert not is_source(Path("/elsewhere/x.py"), folder)
    assert is_source(folder / "shop.py", folder)


def test_a_process_that_dev_does_not_know_cannot_be_left_out() -> None:
    result = CliRunner().invoke(app, ["dev", "--without", "workers"])
    assert result.exit_code == 2
    assert "unknown process; the processes are bridge, worker," in " ".join(
        result.stderr.replace("│", " ").split()
    )


@pytest.mark.parametrize("command", commands(5555), ids=lambda command: command.name)
def test_each_process_is_started_by_an_existing_command(command: Command) -> None:
    assert command.words[:2] == SLUICE
    parse(list(command.words[2:]))
