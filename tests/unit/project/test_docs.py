"""What the documents say can be run: examples, targets, commands, settings and links."""

import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sluice.runtime.settings import PREFIX, Settings
from sluice.tasks.fold.registry import collect_modules

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
OURS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "docs/developing.md",
    ROOT / "docs/operating.md",
    ROOT / "docs/metrics.md",
    ROOT / "docs/debezium.md",
    ROOT / "docs/rebuilding.md",
    *sorted((ROOT / "docs/adr").glob("*.md")),
]
SETTING_ROW = re.compile(rf"^\| `({PREFIX}\w+)` \| (\S+) \|", re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language ("" for those that name none)."""
    # All of them, fence by fence: the end of one must not be taken for the beginning of another.
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def sluice_commands(text: str) -> list[list[str]]:
    """Every `sluice …` in blocks and between back quotes, as words, without comments and Python imports."""
    shell = [line for block in blocks(text, "") for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", text)
    found = [
        re.findall(r"\bsluice (?!:|import )[^\"')]+", piece.partition("#")[0]) for piece in shell + inline
    ]
    return [shlex.split(command)[1:] for commands in found for command in commands]


def test_the_example_runs_and_can_be_served() -> None:
    module = ModuleType("readme")
    examples = blocks(README, "python")
    assert len(examples) >= 3
    for example in examples:
        exec(compile(example, "README.md", "exec"), vars(module))
    registry = collect_modules([module])
    assert set(registry.handlers) == {"order.placed"}
    assert set(registry.effects) == {"send_email"}
    assert registry.outgoing_topics == {"order-events"}


def test_the_handler_is_no_longer_than_fifteen_lines() -> None:
    [handler] = [block for block in blocks(README, "python") if "@handles" in block]
    assert len(handler.splitlines()) <= 15


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in sorted(set(re.findall(r"\bmake ([\w-]+)", README.partition("## What it promises")[0]))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_ours_exist(path: Path) -> None:
    import typer.main

    from sluice.cli.main import app

    for words in sluice_commands(path.read_text()):
        command: Any = typer.main.get_command(app)
        for word in words:
            if word.startswith("-") and word != "-":
                known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
                assert word.partition("=")[0] in known, words
            elif hasattr(command, "get_command"):
                command = command.get_command(None, word)
                assert command is not None, words


def test_commands_are_found_in_the_documents() -> None:
    found = {" ".join(words) for words in sluice_commands(README)}
    assert {"stack up", "stack down", "init", "send -", "status", "doctor"} <= found


def test_settings_are_all_listed_with_their_defaults() -> None:
    listed = dict(SETTING_ROW.findall(README))
    declared = {
        PREFIX + name.upper(): "required"
        if field.is_required()
        else "empty"
        if field.default == ""
        else f"`{field.default}`"
        for name, field in Settings.model_fields.items()
    }
    assert listed == declared


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", path.read_text()):
        if not link.startswith(("https://", "http://")):
            assert (path.parent / link).exists(), link


def test_every_decision_is_in_the_index_and_names_alternatives() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    for path in sorted((ROOT / "docs/adr").glob("0*.md")):
        assert f"({path.name})" in index
        text = path.read_text()
        assert text.startswith(f"# {path.name[:4]} ")
        for heading in ("## Context", "## Decision", "## Alternatives", "## Consequences", "## Not covered"):
            assert f"\n{heading}\n" in text, (path.name, heading)
