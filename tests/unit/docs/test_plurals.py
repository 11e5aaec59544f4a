"""The number 1 has a noun in the singular, so a number before a plural noun requires `plural()`."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest

from sluice.runtime.terminal_text import plural
from tests.documents import ROOT
from tests.unit.docs.message_commands import FOLDERS

NOUNS = (
    "batches bridges calls characters digits events files keys lanes letters members messages minutes"
    " offsets others partitions queues records rows shards times topics transactions workers"
).replace(" ", "|")
COUNTED = re.compile(rf" (?:[a-z]+ )?(?:{NOUNS})\b")
# These numbers are never 1, or do not count the noun.
ALLOWED = {
    "{len(value)} characters",  # above a limit
    "{sharing.workers} workers",  # more than one
    "{len(source)} characters",
    "{failures} times",  # two or more
    "{first.deaths} times",
    "{deaths.deaths} times",
    "{len(verdict.failure_window)} events",
    "{state.value} letters",  # a state
    "{entity} write rows",
    "{name} keeps records",
    "{' and '.join(RETRIED_FROM)} calls",
}


def uncounted(code: str) -> Iterator[tuple[int, str]]:
    """Yields the line and the text of each number that is written before a noun in the plural."""
    for node in ast.walk(ast.parse(code)):
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        for number, words in pairwise(parts):
            if not isinstance(number, ast.FormattedValue) or not isinstance(words, ast.Constant):
                continue
            found = COUNTED.match(str(words.value))
            value = ast.unparse(number.value)
            if found is not None and not value.isupper() and f"{{{value}}}{found[0]}" not in ALLOWED:
                yield number.lineno, f"{{{value}}}{found[0]}"


def test_a_number_before_a_plural_noun_goes_through_plural() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}: {text}"
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*.py"))
        if "testing" not in file.parts and "template" not in file.parts
        for line, text in uncounted(file.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("f'{n} rows'", 1),
        ("f'{n:,} dead letters'", 1),
        ("f'{n} {plural(n, \"row\")}'", 0),
        ("f'{MOST} rows'", 0),
    ],
)
def test_a_number_before_a_plural_noun_is_found(code: str, count: int) -> None:
    assert len(list(uncounted(code))) == count


def test_the_words_follow_the_number() -> None:
    assert [plural(n, "row") for n in (0, 1, 2)] == ["rows", "row", "rows"]
    assert [plural(n, "call is", "calls are") for n in (0, 1, 2)] == ["calls are", "call is", "calls are"]
