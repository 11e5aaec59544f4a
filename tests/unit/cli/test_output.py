"""All output of the commands passes through one module, which escapes control characters."""

import ast
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sluice import cli
from sluice.cli.main import app
from sluice.cli.output import say, say_document, say_log
from sluice.cli.printing import MOST_CHARACTERS, equal_lines, field_lines

ROOM = Path(cli.__file__).parent
# Functions that print, and classes whose objects print.
PRINTERS = {"echo", "secho", "confirm", "prompt", "print", "Console", "Table", "Progress", "write"}
ALLOWED = {"output.py": {"echo", "confirm"}, "progress.py": {"Console", "Progress"}, "tables.py": {"Table"}}


def printers(source: str) -> set[str]:
    """Returns the names of PRINTERS that the source calls."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "") for one in calls}
    return names & PRINTERS


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: path.name)
def test_no_module_prints_except_the_module_that_escapes_text(path: Path) -> None:
    assert printers(path.read_text()) <= ALLOWED.get(path.name, set())
    assert "rich.table" not in path.read_text()


def test_the_check_finds_a_module_that_prints() -> None:
    assert printers("import typer\ntyper.echo(1)\nConsole().print('x')") == {"echo", "Console", "print"}


def in_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.BytesIO:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    return raw


@pytest.mark.parametrize(
    ("encoding", "text"), [("utf-8", "a[/b] é"), ("ascii", r"a[/b] \xe9"), ("latin-1", "a[/b] é")]
)
def test_control_characters_and_characters_outside_the_encoding_are_escaped(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: str
) -> None:
    raw = in_encoding(monkeypatch, encoding)
    say("a[/b] é\x1b\n", "two")
    assert raw.getvalue().decode(encoding) == text + "\\x1b\\n\ntwo\n"


def test_a_document_is_json_in_any_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = in_encoding(monkeypatch, "ascii")
    say_document({"é": "\x7f\u202e🙂"})
    assert raw.getvalue() == rb'{"\u00e9":"\u007f\u202e\ud83d\ude42"}' + b"\n"


def test_a_text_of_several_lines_is_indented_and_a_long_text_is_cut() -> None:
    lines = field_lines({"a b": "x\ny", "none": None, "long": "z" * (MOST_CHARACTERS + 5)}, full=False)
    assert lines[:3] == ["a b:", "    x", "    y"]
    assert lines[3].endswith("z… (5 characters more: --full prints them)")
    assert field_lines({"long_one": "z" * 9_999}) == ["long one: " + "z" * 9_999]


def test_equal_reasons_share_one_line_with_their_number() -> None:
    named = [("a", "gone"), ("b", "late"), ("c", "gone"), ("d", "gone")]
    assert equal_lines(named, most=2) == ["3 of them, the first a, c: gone", "b: late"]
    assert equal_lines(named[:3], most=2) == ["a: gone", "c: gone", "b: late"]
    assert equal_lines([]) == []


@pytest.mark.parametrize(
    "environ",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}],
    ids=lambda environ: "=".join(*environ.items()),
)
@pytest.mark.parametrize(
    "words", [["--help"], ["dlq", "redrive", "--help"], ["send", "--help"], ["no\u202e\x1bé"]]
)
def test_help_and_usage_errors_print_in_any_encoding(words: list[str], environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from sluice.cli.main import app; app()", *words],
        env=os.environ | environ,
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert b"Usage" in done.stdout + done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert "\u202e".encode() not in done.stdout + done.stderr


def test_a_traceback_keeps_its_lines_and_contains_no_terminal_control_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("\x1b[2J\nno")

    monkeypatch.setattr("sluice.cli.audit.connected", fail)
    result = CliRunner().invoke(app, ["audit", "ls"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == "Traceback (most recent call last):"
    assert "\x1b" not in result.stderr
    assert r"RuntimeError: \x1b[2J" in result.stderr


def test_an_argument_that_is_not_utf_8_is_refused() -> None:
    result = CliRunner().invoke(app, ["dlq", "ls", "--key", "a\udcff"])
    assert result.exit_code == 2
    assert r"\udcff is not UTF-8" in result.stderr


def test_a_terminal_receives_no_control_characters() -> None:
    ours, theirs = pty.openpty()
    lines = "from sluice.cli.output import say; say('a\\x1b[31m', '[b]', '\\u202e')"
    subprocess.run([sys.executable, "-c", lines], stdout=theirs, check=True)
    os.close(theirs)
    written = os.read(ours, 1_000)
    os.close(ours)
    assert written == rb"a\x1b[31m" + b"\r\n[b]\r\n" + rb"\u202e" + b"\r\n"


@pytest.mark.parametrize(
    ("colours", "written"),
    [
        (("cyan", "red"), b"\x1b[36mbridge |\x1b[0m \x1b[31ma\\x1b[2J\x1b[0m\n"),
        (None, b"bridge | a\\x1b[2J\n"),
    ],
)
def test_a_log_line_has_only_the_colours_of_sluice_dev(
    monkeypatch: pytest.MonkeyPatch, colours: tuple[str, str] | None, written: bytes
) -> None:
    raw = in_encoding(monkeypatch, "utf-8")
    say_log("bridge |", "a\x1b[2J", colours=colours)
    assert raw.getvalue() == written
