"""Lists and JSON documents with values that a terminal would interpret, hide or cannot show."""

import contextlib
import io
import itertools
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from sluice.cli.main import app
from sluice.db.connection import Session
from sluice.runtime.terminal_text import shown
from tests.db.admin.leaving import insert_call, insert_event
from tests.harness.raw_sql import cursor_of
from tests.harness.stacks import install

NASTY = [
    "a[/b]",
    "[email]",
    "[bold red]x[/]",
    "[link=file:///etc/passwd]x[/link]",
    ":warning:",
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\rb",
    "a\nb",
    "a\tb",
    "a\x08\x08b",
    "a\x7fb",
    "pay\u202egnp.exe",
    "\u2066x\u2069",
    "a\u200bb",
    "a\u200db",
    "a\u2028b",
    "a\u2029b",
    "\ufeffx",
    "a\xa0b",
    "a\xadb",
    "\U000e0041x",
    "\ue000x",
    "\u0378x",
    "\u3164x",
    "Straße",
    "価格",
    "🙂",
    r"C:\new\x1b",
    "{x} %s $1 'q' \"d\"",
    "order-00000000-0000-0000-0000-000000000007",
]
ENCODINGS = ["utf-8", "ascii", "latin-1"]
LISTS = [
    ("dlq", "ls"),
    ("outbox", "ls"),
    ("effects", "ls"),
    ("effects", "ls", "--conflicts"),
    ("audit", "ls"),
    ("queue", "ls"),
]
INSERT_LETTER = """
    INSERT INTO sluice.dead_letters (topic, topic_id, partition, "offset", timestamp_ms, key, value, headers,
        queue, entity, entity_key, identity, event_id, type, outcome, error_class, error_text)
    VALUES ('orders', 'id', 0, %s, 0, %s, %s, '[]', 'order.0', 'order', %s, gen_random_uuid(), %s, %s, 'dead',
        'CheckViolation', %s)
"""


class Terminal(io.TextIOWrapper):
    """An output stream whose `isatty` returns True."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def environ(database_url: str, session: Session) -> dict[str, str]:
    """Returns the settings of an installation in which each text for operators is a value of NASTY."""
    install(database_url)
    for number, text in enumerate(NASTY, start=1):
        insert_event(session, number, topic=f"t{text}", key=text, payload=text.encode(), refused=text)
        insert_call(session, text, "failed", entity_key=text, error=text, args=json.dumps({text: text}))
        with cursor_of(session) as cursor:
            raw = text.encode()
            cursor.execute(INSERT_LETTER, (number, raw, raw, text, text, text, text))
            cursor.execute(
                "INSERT INTO sluice.call_conflicts (effect_key, identity, args)"
                " VALUES (%s, gen_random_uuid(), %s)",
                (text, json.dumps({text: text})),
            )
            cursor.execute(
                "INSERT INTO sluice.audit (actor, verb, reason, subject) VALUES (%s, 'dlq drop', %s, %s)",
                (text, text, text),
            )
    with cursor_of(session) as cursor:
        cursor.execute("INSERT INTO sluice.entities (entity, shards) VALUES ('order', 1)")
        cursor.execute(
            "INSERT INTO sluice.queues (queue, entity, halted_reason, halted_at)"
            " VALUES ('order.0', 'order', %s, now())",
            (NASTY[5],),
        )
    return {
        "SLUICE_DATABASE_URL": database_url,
        "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "SLUICE_HANDLERS": "examples.shop.handlers",
    }


Run = Callable[..., str]


@pytest.fixture
def run(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that runs a command and returns its output.

    The command writes to a pipe, or to a terminal with this number of `columns`.
    """
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    def run(*words: str, encoding: str = "utf-8", columns: int | None = None) -> str:
        raw = io.BytesIO()
        kind = io.TextIOWrapper if columns is None else Terminal
        monkeypatch.setenv("COLUMNS", str(columns or 80))
        with monkeypatch.context() as patched, kind(raw, encoding=encoding, write_through=True) as stream:
            patched.setattr(sys, "stdout", stream)
            app(words, standalone_mode=False)
            return raw.getvalue().decode(encoding)

    return run


def is_safe(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def expected(words: tuple[str, ...]) -> list[str]:
    return [NASTY[5]] if words[0] == "queue" else NASTY


def test_every_list_shows_every_value_completely(run: Run) -> None:
    for words, encoding, columns in itertools.product(LISTS, ENCODINGS, (None, 40, 120)):
        text = run(*words, encoding=encoding, columns=columns)
        assert is_safe(text)
        assert [one for one in expected(words) if shown(one, encoding) not in text] == [], words
        if columns is None:
            assert not any(line.startswith(" " * 20) for line in text.splitlines()), "nothing is wrapped"


def test_every_document_is_safe_json_with_the_exact_values(run: Run) -> None:
    for words, encoding in itertools.product(LISTS, ENCODINGS):
        text = run(*words, "--json", encoding=encoding)
        assert is_safe(text)
        exact = json.dumps(json.loads(text), ensure_ascii=False)
        assert [one for one in expected(words) if json.dumps(one, ensure_ascii=False) not in exact] == [], (
            words
        )


def test_show_prints_stored_texts_as_text(run: Run) -> None:
    for number, value in enumerate(NASTY, start=1):
        encoding = ENCODINGS[number % 3]
        letter = run("dlq", "show", str(number), encoding=encoding)
        event = run("outbox", "show", "order.0", str(number), encoding=encoding)
        call = run("effects", "show", value, encoding=encoding)
        assert is_safe(letter + event + call)
        lines = shown(value, encoding) if "\n" not in value else "    b"
        assert letter.count(lines) >= 5, "key, value, event id, type and error"
        assert lines in event
        assert lines in call
        assert "base64" not in letter + event


def test_status_shows_the_reason_of_a_halt(environ: dict[str, str]) -> None:
    output = CliRunner(charset="ascii").invoke(app, ["status"], env=environ).output
    assert is_safe(output)
    assert shown(NASTY[5]) in output


def test_an_export_is_equal_on_a_terminal_and_in_a_pipe(run: Run) -> None:
    piped = [json.loads(line) for line in run("dlq", "export", "--all").splitlines()]
    on_terminal = run("dlq", "export", "--all", encoding="ascii", columns=80)
    assert is_safe(on_terminal)
    assert [json.loads(line) for line in on_terminal.splitlines()] == piped
    assert len(piped) == len(NASTY)


def test_a_real_terminal_shows_one_block_per_letter(environ: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-c", "from sluice.cli.main import app; app()", "dlq", "ls", "--limit", "1"],
        stdout=theirs,
        env=os.environ | environ | {"COLUMNS": "40", "PYTHONIOENCODING": "ascii"},
    )
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # Linux raises this error when the other end is closed.
        while piece := os.read(ours, 65_536):
            written += piece
    os.close(ours)
    assert done.wait() == 0
    assert f"entity: order/{NASTY[-1]}\r\n".encode() in written
