"""README has a valid example and stays short. All settings and all decisions are listed."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from sluice.runtime.settings import PREFIX, Settings, variable
from sluice.tasks.fold.registry import collect_modules
from tests.documents import ROOT, blocks_in, pages
from tests.unit.docs.test_blocks import run_blocks

README = ROOT / "README.md"
SETTING_ROW = re.compile(rf"^\| `({PREFIX}\w+)` \| (\S+) \|", re.MULTILINE)
HEADINGS = ("## Context", "## Decision", "## Alternatives", "## Consequences", "## Not covered")


@pytest.mark.parametrize("page", [README, ROOT / "docs/handlers.md"], ids=lambda page: page.name)
def test_the_handlers_of_the_first_example_can_be_collected(page: Path) -> None:
    registry = collect_modules(run_blocks(blocks_in("python", page=page))[:1])
    assert set(registry.handlers) == {"order.placed"}
    assert registry.outgoing_topics == {"order-events"}


def test_readme_stays_short() -> None:
    assert len(README.read_text().splitlines()) < 200
    [handler] = [block for block in blocks_in("python", page=README) if "@handles" in block.text]
    assert len(handler.text.splitlines()) <= 15


def test_all_settings_are_listed_with_their_defaults() -> None:
    listed = dict(SETTING_ROW.findall((ROOT / "docs/settings.md").read_text()))
    declared = {
        variable(name): "required"
        if field.is_required()
        else "empty"
        if field.default in ("", None, SecretStr(""))
        else f"`{field.default}`"
        for name, field in Settings.model_fields.items()
    }
    assert listed == declared


def test_every_decision_is_in_the_index_and_has_all_sections() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    for page in pages(ROOT / "docs/adr"):
        if page.name != "README.md":
            assert f"({page.name})" in index
            text = page.read_text()
            assert text.startswith(f"# {page.name[:4]} ")
            for heading in HEADINGS:
                assert f"\n{heading}\n" in text, (page.name, heading)
