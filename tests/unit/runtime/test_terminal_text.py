"""Values are shown unchanged, but characters that a terminal interprets or hides are escaped."""

import contextlib
import json
import unicodedata
from datetime import UTC, datetime
from enum import Enum
from types import ModuleType
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.runtime import terminal_text
from sluice.runtime.terminal_text import shown, shown_json, text_or_base64
from tests.mutants import mutated

TEXTS = st.text(st.characters(codec=None), max_size=20)
UNCHANGED = [
    "a[/b]",
    "[email]",
    "[bold]x[/]",
    ":smile:",
    r"C:\new\x1b",
    "order-1",
    "Straße 価格 🙂",
    "",
    "{x} %s $1",
]
ESCAPED = {
    "a\nb": r"a\nb",
    "a\r\tb": r"a\r\tb",
    "\x1b[31mred": r"\x1b[31mred",
    "\x9b31m": r"\x9b31m",
    "\x00\x07\x08\x7f": r"\x00\x07\x08\x7f",
    "pay\u202egnp.exe": r"pay\u202egnp.exe",
    "\u2066a\u2069": r"\u2066a\u2069",
    "a\u200bb\ufeff": r"a\u200bb\ufeff",
    "a\u2028b\u2029": r"a\u2028b\u2029",
    "a\xadb\xa0c": r"a\xadb\xa0c",
    "\U000e0041": r"\U000e0041",
    "\udc80": r"\udc80",
    "\ue000": r"\ue000",
    "\u0378": r"\u0378",
    "a\u3164\u115f\u2800": r"a\u3164\u115f\u2800",
    "v\ufe0f\u034f": r"v\ufe0f\u034f",
}


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize("text", UNCHANGED)
def test_plain_text_is_shown_unchanged(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize(("text", "escaped"), ESCAPED.items())
def test_characters_that_a_terminal_interprets_or_hides_are_escaped(text: str, escaped: str) -> None:
    assert shown(text) == escaped
    assert json.loads(shown_json(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (7, "7"),
        (b"text \xc3\xa9", "text é"),
        (memoryview(b"a\nb"), r"a\nb"),
        (b"\xff{", "base64:/3s="),
        (Colour.RED, "red"),
        (UUID(int=7), str(UUID(int=7))),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        ({"a": ["\u202e", None]}, r'{"a":["\u202e",null]}'),
    ],
)
def test_values_of_all_types_are_shown_as_text(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("ascii", r"\xe9 \u20ac \U0001f642 a"), ("latin-1", r"é \u20ac \U0001f642 a"), ("utf-8", "é € 🙂 a")],
)
def test_characters_outside_the_encoding_are_escaped(encoding: str, text: str) -> None:
    assert shown("é € 🙂 a", encoding) == text
    assert json.loads(shown_json('"é € 🙂 a"', encoding)) == "é € 🙂 a"


def is_safe(module: ModuleType, text: str, encoding: str) -> bool:
    """Returns True if all characters of the shown text are visible, encodable and not interpreted."""
    result = str(module.shown(text, encoding))
    return (
        result.isprintable()
        and all(
            unicodedata.category(char) not in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn") for char in result
        )
        and result.encode(encoding).decode(encoding) == result
        and module.shown(result, encoding) == result
    )


@given(TEXTS, st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252"]))
def test_any_shown_text_is_safe_and_escaping_it_again_changes_nothing(text: str, encoding: str) -> None:
    assert is_safe(terminal_text, text, encoding)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_an_escaped_json_document_keeps_its_meaning(document: object) -> None:
    for encoding in ("utf-8", "ascii"):
        line = shown_json(json.dumps(document, ensure_ascii=False), encoding)
        assert json.loads(line) == document
        assert line.isprintable()
        line.encode(encoding)


@given(st.binary(max_size=20))
def test_bytes_are_shown_as_text_or_base64(raw: bytes) -> None:
    [name] = text_or_base64("key", raw)
    assert name in ("key", "key_base64")
    assert (name == "key") == (raw.decode(errors="ignore").encode() == raw)


@pytest.mark.parametrize(
    ("old", "new", "text", "encoding"),
    [
        ("if not text.isprintable() or _INVISIBLE.search(text):", "if False:", "\x1b[2J", "utf-8"),
        ("if _has(encoding, text):", "if True:", "é", "ascii"),
    ],
)
def test_the_check_finds_unsafe_text(old: str, new: str, text: str, encoding: str) -> None:
    module = mutated(terminal_text, old, new)
    with contextlib.suppress(UnicodeEncodeError):
        assert not is_safe(module, text, encoding)
