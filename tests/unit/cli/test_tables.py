"""The layout of tables. A word is never broken, at any width."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.cli.tables import MOST_CHARACTERS, fold, table_lines, table_of

KEY = "order-00000000-0000-0000-0000-000000000007"
REASON = "a sentence of some words that names the cause of a failure"
TABLE = table_of(
    ("id", "key", "error"), [(3, KEY, REASON), (4, "a[/b]\n", None)], folded=("error",), right=("id",)
)


def test_without_a_width_every_row_is_one_line() -> None:
    assert table_lines(TABLE) == [
        f"id  {'key':<42}  error",
        f" 3  {KEY}  {REASON}",
        " 4  " + r"a[/b]\n".ljust(42) + "  -",
    ]


def test_columns_whose_text_may_wrap_are_narrowed_first() -> None:
    lines = table_lines(TABLE, width=80)
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith(f" 3  {KEY}  a sentence of some words")


def test_on_a_narrow_terminal_a_row_is_a_block() -> None:
    assert table_lines(TABLE, width=40) == [
        "id: 3",
        f"key: {KEY}",
        f"error: {REASON}",
        "",
        "id: 4",
        r"key: a[/b]\n",
        "error: -",
    ]


def test_a_long_value_is_cut_and_followed_by_a_hint() -> None:
    table = table_of(("id", "error"), [(1, "x" * (MOST_CHARACTERS + 7))], whole="`sluice dlq show ID`")
    lines = table_lines(table, encoding="ascii")
    assert lines[1] == "1   " + "x" * MOST_CHARACTERS + r"\u2026(+7)"
    assert "`sluice dlq show ID` prints them whole" in lines[2]


WORDS = st.text("ab -:价", min_size=0, max_size=30)


@given(st.lists(st.tuples(WORDS, WORDS), max_size=4), st.none() | st.integers(1, 60))
def test_no_word_is_ever_broken(rows: list[tuple[str, str]], width: int | None) -> None:
    lines = table_lines(table_of(("one", "two"), rows, folded=("two",)), width=width)
    found = set(" ".join(lines).split())
    for row in rows:
        for cell in row:
            assert set(cell.split()) <= found


@pytest.mark.parametrize("width", [1, 5, 10, 100])
def test_a_wrapped_text_keeps_its_words(width: int) -> None:
    lines = fold(REASON, width)
    assert " ".join(lines) == REASON
    assert all(len(line) <= width or " " not in line for line in lines)
    assert fold(f"{KEY} {REASON}", width)[0].startswith(KEY), "no empty line before a long word"
