"""The pages of the project: their code blocks, inline code, links and anchors.

An HTML comment directly before a block decides how the tests use the block:

- `<!-- continues -->`: the Python block runs in the namespace of the block before it, not in a new namespace.
- `<!-- servers -->`: the shell block runs on real servers, after the earlier `servers` blocks of its page.
- `<!-- not run: REASON -->`: the block does not run. The tests print these blocks with their reasons.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PROJECT_README = ROOT / "sluice/project/template/README.md.tmpl"
"""The README of a project that `sluice new` writes."""
# Folders without pages of this project.
_PASSED_OVER = {"node_modules", "build", "dist", "vendor"}
_HIDDEN_WITH_PAGES = ".github"
_MARK = re.compile(r"<!--\s*(continues|servers|not run)(?::\s*(.+?))?\s*-->\s*", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page."""

    page: Path
    line: int
    """Line of the opening fence, from 1."""
    language: str
    """Empty if the fence names no language."""
    text: str
    mark: str = ""
    """`continues`, `servers`, `not run`, or empty."""
    reason: str = ""
    """Why the block does not run."""

    @property
    def place(self) -> str:
        """Page and line, in the form that editors open."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages(folder: Path = ROOT) -> list[Path]:
    """Returns every Markdown page of the project, sorted."""
    found = []
    for path, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name not in _PASSED_OVER and (name == _HIDDEN_WITH_PAGES or not name.startswith("."))
        ]
        found += [Path(path) / name for name in files if name.endswith(".md")]
    return sorted(found)


def documents() -> list[Path]:
    """Returns the pages whose code blocks and commands are checked."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", PROJECT_README, *pages(ROOT / "docs")]


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def blocks(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page, in order. Raises ValueError for an invalid mark."""
    found, mark = [], None
    for token in _tokens(page):
        if mark and token.type != "fence":
            raise ValueError(f"{page}: no code block follows the comment {mark[0].strip()}")
        if token.type == "html_block":
            mark = _MARK.fullmatch(token.content)
            if mark and (mark[1] == "not run") != bool(mark[2]):
                raise ValueError(f"{page}: only <!-- not run: REASON --> takes a reason, and it requires one")
        if token.type == "fence" and token.map:
            name, reason = (mark[1], mark[2] or "") if mark else ("", "")
            words = token.info.split()
            language = words[0] if words else ""
            found.append(Block(page, token.map[0] + 1, language, token.content, name, reason))
            mark = None
    if mark:
        raise ValueError(f"{page}: no code block follows the comment {mark[0].strip()}")
    return found


def blocks_in(language: str, *, page: Path | None = None, mark: str | None = None) -> list[Block]:
    """Returns the blocks of a language in one page or in all documents.

    With `mark` returns only the blocks with this mark, otherwise all blocks that run.
    """
    return [
        block
        for one in (documents() if page is None else [page])
        for block in blocks(one)
        if block.language == language and (block.mark != "not run" if mark is None else block.mark == mark)
    ]


def inline_code(page: Path) -> list[str]:
    """Returns the inline code of a page."""
    return [child.content for child in _children(page) if child.type == "code_inline"]


def links(page: Path) -> list[str]:
    """Returns the targets of the links and images in a page."""
    found = (child.attrs.get("href") or child.attrs.get("src") for child in _children(page))
    return [str(target) for target in found if target is not None]


def anchors(page: Path) -> set[str]:
    """Returns the URL fragments of the headings of a page, as GitHub generates them."""
    seen: Counter[str] = Counter()
    found = set()
    tokens = _tokens(page)
    for opening, content in pairwise(tokens):
        if opening.type == "heading_open":
            name = slug("".join(child.content for child in content.children or []))
            found.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
    return found


def slug(heading: str) -> str:
    """Returns the URL fragment of a heading: lower case, hyphens for spaces, no punctuation."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _children(page: Path) -> Iterator[Token]:
    for token in _tokens(page):
        yield from token.children or []
