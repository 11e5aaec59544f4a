"""Paragraphs in docs/ are short. The pages about the design name existing tests and are all in the index."""

import re
from pathlib import Path

import pytest

from sluice.db.schema import metadata

ROOT = Path(__file__).parents[3]
DESIGN = ROOT / "docs/design"
PAGES = sorted(DESIGN.glob("*.md"))
MAX_WORDS = 80
CODE = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r"^\s*(?:[-*]|\d+\.) ")
BAR = re.compile(r"(?<!\\)\|")
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DECISIONS = sorted((ROOT / "docs/adr").glob("*.md"))
TEST = re.compile(r"(tests/[\w/]+\.py)(?:::(\w+))?")


def split_paragraphs(text: str) -> list[str]:
    """Returns the paragraphs of a page, without headings and code.

    Each item of a list is a paragraph, and so is each cell of a table.
    """
    paragraphs: list[list[str]] = [[]]
    for line in CODE.sub("", text).splitlines():
        if line.startswith("|"):
            paragraphs += [*([cell] for cell in BAR.split(line)), []]
            continue
        if not line.strip() or line.startswith("#"):
            paragraphs.append([])
            continue
        if ITEM.match(line):
            paragraphs.append([])
        paragraphs[-1].append(line.strip())
    return [" ".join(lines) for lines in paragraphs if lines]


def find_long_paragraphs(text: str) -> list[str]:
    return [found for found in split_paragraphs(text) if len(found.split()) > MAX_WORDS]


def find_missing_tests(text: str) -> list[str]:
    """Returns the tests that a page names and that do not exist."""
    missing = []
    for file, name in TEST.findall(text):
        path = ROOT / file
        if not path.is_file() or (name and not re.search(rf"def {name}\(", path.read_text())):
            missing.append(f"{file}::{name}")
    return missing


@pytest.mark.parametrize("page", [*PAGES, *GUIDES, *DECISIONS], ids=lambda page: str(page.relative_to(ROOT)))
def test_no_paragraph_is_longer_than_80_words(page: Path) -> None:
    assert find_long_paragraphs(page.read_text()) == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_every_test_named_on_a_page_exists(page: Path) -> None:
    assert find_missing_tests(page.read_text()) == []


def test_the_index_links_to_every_page() -> None:
    index = (DESIGN / "README.md").read_text()
    assert [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index] == []


def test_the_page_of_tables_lists_every_table_of_sluice() -> None:
    page = (DESIGN / "tables.md").read_text()
    assert [table.name for table in metadata.tables.values() if f"`{table.name}`" not in page] == []


LONG = "word " * 81


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LONG, 1),
        (f"- {LONG}", 1),
        (f"# Title\n{LONG}\n\n{LONG}", 2),
        ("word " * 80, 0),
        (f"- {'word ' * 50}\n- {'word ' * 50}", 0),
        (f"| {LONG} | {LONG} |\n", 2),
        (f"| {'word ' * 50} | {'word ' * 50} |\n", 0),
        (f"```mermaid\n{LONG}\n```\n", 0),
        (f"```\n{LONG}\n```\n{LONG}", 1),
    ],
)
def test_only_long_paragraphs_are_found(text: str, found: int) -> None:
    assert len(find_long_paragraphs(text)) == found


def test_the_check_finds_missing_tests() -> None:
    here = "tests/unit/docs/test_paragraphs.py"
    assert find_missing_tests(f"`{here}::test_the_check_finds_missing_tests`, `{here}`") == []
    assert find_missing_tests(f"`{here}::test_a_test` `tests/unit/test_none.py`") == [
        f"{here}::test_a_test",
        "tests/unit/test_none.py::",
    ]
