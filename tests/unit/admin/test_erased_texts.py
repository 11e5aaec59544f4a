"""The key of an erased entity is replaced where it is a whole word in text, JSON or base64."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.admin.erased_texts import mention_pattern, without_key

MARK = "erased:0"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ("thing/k.1 failed", f"thing/{MARK} failed"),
        ("Key (id)=(k.1) exists", f"Key (id)=({MARK}) exists"),
        ("k.10 and xk.1 are others", "k.10 and xk.1 are others"),
        ("kx1", "kx1"),
        ([1, "k.1", None], [1, MARK, None]),
        ({"k.1": {"to": "k.1"}}, {MARK: {"to": MARK}}),
        ({"payload_base64": encoded('{"id":"k.1"}')}, {"payload_base64": MARK}),
        ({"payload_base64": encoded("other")}, {"payload_base64": encoded("other")}),
        ({"photo_base64": "k.1"}, {"photo_base64": MARK}),
        ({"photo_base64": "kx1"}, {"photo_base64": "kx1"}),
        ({"payload_base64": None}, {"payload_base64": None}),
        (None, None),
    ],
)
def test_the_key_is_replaced(value: Any, clean: Any) -> None:
    assert without_key(value, mention_pattern("k.1"), MARK) == clean


@given(st.from_regex(r"\w(.*\w)?", fullmatch=True), st.text())
def test_a_key_with_any_characters_is_replaced(key: str, other: str) -> None:
    """No character of the key has a special meaning in the pattern. An empty key replaces nothing."""
    assert without_key(f"({key})", mention_pattern(key), MARK) == f"({MARK})"
    assert without_key(other, mention_pattern(""), MARK) == other
