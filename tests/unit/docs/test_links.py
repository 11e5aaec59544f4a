"""All links between the pages have a target, and every page can be reached from README."""

from pathlib import Path

import pytest

from tests.documents import ROOT, anchors, links, pages, slug

PAGES = pages()


def split(page: Path, link: str) -> tuple[Path, str]:
    """Returns the file and the fragment that a relative link of a page names."""
    path, _, fragment = link.partition("#")
    return (page.parent / path).resolve() if path else page, fragment


def dead_links(page: Path) -> list[str]:
    """Returns the relative links of a page whose file or anchor does not exist."""
    found = []
    for link in links(page):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        target, fragment = split(page, link)
        if not target.exists() or (fragment and fragment not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    assert dead_links(page) == []


def targets(page: Path) -> set[Path]:
    """Returns the files that a page links to."""
    return {split(page, link)[0] for link in links(page)}


def test_readme_lists_every_page_of_docs() -> None:
    assert set((ROOT / "docs").glob("*.md")) <= targets(ROOT / "README.md")


def test_every_page_can_be_reached_from_readme() -> None:
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        linked = set().union(*map(targets, new))
        new = {target for target in linked if target.suffix == ".md" and target.exists()} - reached
    assert set(PAGES) - reached == {ROOT / ".github/PULL_REQUEST_TEMPLATE.md"}


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `page`, here\n## Twice\n## Twice\n"
        "[a](#a-page-here) [b](page.md#twice-1) [c](https://example.org/none) `[d](none.md)`\n"
        "[e](#twice-2) [f](other.md) ![g](drawing.png) [h][one]\n\n[one]: page.md#none\n"
    )
    assert dead_links(page) == ["#twice-2", "other.md", "drawing.png", "page.md#none"]


def test_the_fragment_of_a_heading_equals_the_fragment_on_github() -> None:
    assert slug("What leaves: events and calls (2)") == "what-leaves-events-and-calls-2"
    assert slug("Copies of the database") == "copies-of-the-database"
