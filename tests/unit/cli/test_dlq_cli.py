"""`sluice dlq` without services: refused options, printed tables, and exported records."""

import base64
import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from sluice.admin import event_lines
from sluice.admin.documents import as_json
from sluice.admin.event_lines import LineRefused, Outgoing, letter_line, parse_lines
from sluice.admin.letters import letter_document
from sluice.admin.redrive import EntityRedriven
from sluice.cli.dlq import count_table, letter_table, reason_table
from sluice.cli.dlq_change import redriven_documents, redriven_lines
from sluice.cli.main import app
from sluice.cli.printing import field_lines
from sluice.cli.tables import table_lines
from sluice.db.admin.letter_details import WaitingLetter, WholeLetter
from sluice.db.admin.letters import LetterCount, LetterReason, ListedLetter
from tests.mutants import mutated

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
URLS = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://me:secret@127.0.0.1:1/none",
    "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "SLUICE_HANDLERS": "examples.shop.handlers",
}
LISTED = ListedLetter(
    3, "orders", 1, 7, "order", "o-1", "order.placed", "CheckViolation", "no", "dead", "dead", 2, 7_300.0, 4
)
WHOLE = WholeLetter(
    *LISTED[:-1],
    "id",
    "order.0",
    UUID(int=7),
    "e-1",
    None,
    1,
    NOW,
    None,
    [],
    memoryview(b"o-1"),
    memoryview(b"{}"),
    None,
)


def whole(
    key: bytes | None = b"k",
    value: bytes | None = b"{}",
    headers: list[tuple[str, bytes | None]] | None = None,
) -> WholeLetter:
    return WHOLE._replace(
        key=None if key is None else memoryview(key),
        value=None if value is None else memoryview(value),
        headers=[(name, None if part is None else part.hex()) for name, part in headers or []],
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["redrive", "--reason", "r"], "pass the IDs of letters, or --all"),
        (["redrive", "1", "--all", "--reason", "r"], "pass the IDs of letters"),
        (["redrive", "1", "--topic", "t", "--reason", "r"], "pass the IDs of letters"),
        (["export"], "pass the IDs of letters"),
        (["export", "1", "--older-than", "2h"], "pass the IDs of letters"),
        (["resolve", "--reason", "r"], "pass the IDs of the conflicts"),
    ],
)
def test_contradictory_options_are_refused_before_postgres_is_used(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["dlq", *words], env=URLS)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["redrive", "1"], ["drop", "1"], ["resolve", "1"]], ids=" ".join)
def test_a_command_that_changes_letters_requires_a_reason(words: list[str]) -> None:
    for given in ([], ["--reason", " "]):
        result = CliRunner().invoke(app, ["dlq", *words, *given], env=URLS)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--reason" in result.stderr
    result = CliRunner().invoke(app, ["dlq", *words, "--reason", "r"], env=URLS)
    assert "SLUICE_DATABASE_URL" in result.stderr


SENDABLE = [
    whole(),
    whole(value=None),
    whole(key=None),
    whole(key="ключ".encode(), value='{"n": 1.10, "n": "é"}'.encode(), headers=[("ce_id", b"1"), ("b", b"")]),
    whole(value=b"[1, true, null]"),
    whole(value=b'"text"'),
]


@pytest.mark.parametrize("letter", SENDABLE)
def test_an_exported_line_is_read_back_as_the_same_record(letter: WholeLetter) -> None:
    line = letter_line(letter)
    assert "\n" not in line
    [read] = parse_lines([line.encode()], topic=None, known_topics={"orders"})
    key, value = (None if part is None else bytes(part) for part in (letter.key, letter.value))
    headers = [(name, bytes.fromhex(part or "")) for name, part in letter.headers]
    assert read == Outgoing("orders", key, value, headers)


def test_json_of_several_lines_becomes_one_line() -> None:
    line = letter_line(whole(value=b' {\r\n "a": "x\\ny"\n}\n'))
    [read] = parse_lines([line.encode()], topic=None, known_topics={"orders"})
    assert "\n" not in line
    assert json.loads(read.value or b"") == {"a": "x\ny"}


RAW = [
    whole(value=b"\xff{"),
    whole(value=b'"\xff"'),
    whole(value=b""),
    whole(value=b"{"),
    whole(value=b"\xef\xbb\xbf{}"),
    whole(value=b"[" * 100_000 + b"]" * 100_000),
    whole(key=b"\xff"),
    whole(headers=[("a", b"\xff")]),
    whole(headers=[("a", b"1"), ("a", b"2")]),
    whole(headers=[("a", None)]),
    # `null` in a line means a tombstone, but the value of this record is the text `null`.
    whole(value=b"null"),
    whole(value=b" null "),
    whole(key=None, value=None),
]


@pytest.mark.parametrize("letter", RAW, ids=range(len(RAW)))
def test_a_record_that_a_line_cannot_represent_is_exported_as_base64_and_never_sent(
    letter: WholeLetter,
) -> None:
    line = letter_line(letter)
    document = json.loads(line)
    for name, raw in (("key", letter.key), ("value", letter.value)):
        found = document[f"{name}_base64"]
        assert found == (None if raw is None else base64.b64encode(raw).decode())
    assert [(name, part) for name, part in document["headers_base64"]] == [
        (name, None if part is None else base64.b64encode(bytes.fromhex(part)).decode())
        for name, part in letter.headers
    ]
    with pytest.raises(LineRefused):
        list(parse_lines([line.encode()], topic=None, known_topics={"orders"}))


CUT = {"size_bytes": 70_000, "sha256": "ab"}


SKIPPED = {"skipped": True}


@pytest.mark.parametrize("flaw", [CUT, SKIPPED, {"unreadable_headers": 1}])
def test_a_record_that_is_not_stored_completely_is_never_sent_and_is_not_a_tombstone(
    flaw: dict[str, Any],
) -> None:
    has_value = "unreadable_headers" in flaw
    letter = whole(value=b"{}" if has_value else None)._replace(flaw=flaw)
    document = json.loads(letter_line(letter))
    assert document["flaw"] == flaw
    assert ("value_base64" in document) == has_value
    with pytest.raises(LineRefused):
        list(parse_lines([letter_line(letter).encode()], topic=None, known_topics={"orders"}))
    shown = letter_document(letter, 0, [])
    assert shown["flaw"] == flaw
    assert ("value" in shown) == has_value
    assert "flaw" not in letter_document(whole(), 0, [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('if raw == b"null" or (key is None and raw is None):', "if False:"),
        ("if len(texts) < len(headers) or any(part is None for _, part in headers):", "if False:"),
        ("    msgspec.json.decode(value)\n", "    pass\n"),
    ],
)
def test_a_mutant_that_exports_a_wrong_line_instead_of_base64_is_found(old: str, new: str) -> None:
    module = mutated(event_lines, old, new)

    def is_raw(letter: WholeLetter) -> bool:
        try:
            return "value_base64" in module.letter_line(letter)
        except UnicodeDecodeError:
            return False

    assert not all(is_raw(letter) for letter in RAW)


def test_a_letter_is_shown_as_text_and_json_or_as_base64() -> None:
    letter = whole(b"o-1", b'{"n":1}', [("a", b"1"), ("b", b"\xff"), ("c", None)])
    document = json.loads(as_json(letter_document(letter, 1, [WaitingLetter(4, "orders", 1, 8, None)])))
    assert (document["key"], document["value"]) == ("o-1", {"n": 1})
    assert document["headers"] == [{"a": "1"}, {"b_base64": "/w=="}, {"c": None}]
    assert document["behind_first"] == [{"id": 4, "record": "orders:1:8", "type": None}]
    assert "error class: CheckViolation" in field_lines(letter_document(letter, 0, []))
    raw = letter_document(whole(b"\xff", b"\xff{"), 0, [])
    assert (raw["key_base64"], raw["value_base64"]) == ("/w==", "/3s=")
    assert letter_document(whole(value=b"<a>\xc3\xa9</a>"), 0, [])["value_text"] == "<a>é</a>"
    assert letter_document(whole(None, None), 0, [])["value"] is None


def test_the_tables_show_conflicts_and_waiting_letters() -> None:
    conflict = LISTED._replace(outcome="conflict", entity_key=None, type=None, behind=None)
    counts = [LetterCount("orders", "Conflict", "dead", "conflict", 2)]
    tables = (count_table(counts), letter_table([LISTED, conflict], []))
    assert [line.split() for table in tables for line in table_lines(table)] == [
        ["topic", "error", "state", "letters"],
        ["orders", "Conflict", "dead", "(conflict)", "2"],
        ["id", "record", "entity", "type", "state", "attempts", "age", "behind", "error"],
        ["3", "orders:1:7", "order/o-1", "order.placed", "dead", "2", "2h", "4", "CheckViolation:", "no"],
        ["3", "orders:1:7", "order", "-", "dead", "(conflict)", "2", "2h", "-", "CheckViolation:", "no"],
    ]


def test_a_reason_that_letters_share_is_printed_one_time() -> None:
    reasons = [LetterReason(2, "orders", "CheckViolation", "dead", 4, "no such [amount]")]
    letters = [LISTED._replace(id=number, error_text="no such [amount]") for number in (4, 3)]
    other = LISTED._replace(id=2, error_text="another")
    tables = (reason_table(reasons), letter_table([*letters, other], reasons))
    lines = [line for table in tables for line in table_lines(table)]
    assert [line.split()[-5:] for line in lines if "no such" in line] == [
        ["1:", "CheckViolation:", "no", "such", "[amount]"]
    ]
    assert [line.endswith("CheckViolation: reason 1") for line in lines[-3:]] == [True, True, False]
    assert lines[-1].endswith("CheckViolation: another")


def test_the_outcome_of_a_redrive_is_printed_for_each_entity() -> None:
    done = [
        EntityRedriven("order", "a", outcomes=Counter(applied=3, stale=1), unparked=True),
        EntityRedriven("order", "b", outcomes=Counter(dead=1), blocked_by="orders:0:1 CheckViolation: no"),
        EntityRedriven("order", "c"),
        EntityRedriven("order", None, 7, Counter(applied=1)),
    ]
    assert redriven_lines(done) == [
        "order/a: 3 applied, 1 stale; unparked",
        "order/b: 1 dead; blocked by orders:0:1 CheckViolation: no",
        "order/c: no letter redriven",
        "order, 7: 1 applied",
    ]
    assert json.loads(as_json(redriven_documents(done)))[1]["blocked_by"] == "orders:0:1 CheckViolation: no"
