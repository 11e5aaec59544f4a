"""Commands in the text of the pages exist, and the checks find wrong commands."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT, blocks_in, documents, inline_code
from tests.unit.docs.command_lines import (
    MAKEFILE,
    TEMPLATE_MAKEFILE,
    WrongCommand,
    check_options,
    check_script,
    check_targets,
    commands_of,
    simple_commands,
)

CHECKED = [*documents(), ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]


@pytest.mark.parametrize("page", CHECKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_text_exist(page: Path) -> None:
    for code in inline_code(page):
        check_commands(code)
        if code.startswith("make "):
            targets = [word for word in code.split()[1:] if re.fullmatch("[a-z-]+", word)]
            check_targets(targets, MAKEFILE, TEMPLATE_MAKEFILE)


def check_commands(code: str) -> None:
    """Raises WrongCommand if a `sluice …` command or one of its options does not exist."""
    for command in re.findall(r"\bsluice (?!import )[a-z-][^\"')]+", code.partition("#")[0]):
        check_options(shlex.split(command.replace("| ", "|"))[1:])


@pytest.mark.parametrize(("name", "command"), list(commands_of()), ids=[name for name, _ in commands_of()])
def test_commands_in_the_help_exist(name: str, command: Any) -> None:
    options = [parameter.help for parameter in command.params if getattr(parameter, "help", None)]
    paragraphs = [" ".join(text.split()) for text in re.split(r"\n\s*\n", command.help)]
    for paragraph in paragraphs:
        for example in re.findall(r"(?:^|: )(sluice [a-z][^`]*)$", paragraph):
            check_script(example)
    for code in re.findall(r"`([^`]+)`", " ".join([*paragraphs, *options])):
        check_commands(code)


def test_commands_are_found_in_the_blocks() -> None:
    found = [" ".join(words) for block in blocks_in("sh") for words in simple_commands(block.text)]
    assert {"sluice stack up", "sluice init", "sluice status", "make install"} <= set(found)


def test_a_script_is_split_into_its_commands() -> None:
    script = "a 1 | b '2 | 3' 2>> b.log && c > c.log & # d\n" + 'eval "$(sluice stack up)"; e \\\n  4'
    assert list(simple_commands(script)) == [
        ["a", "1"],
        ["b", "2 | 3"],
        ["c"],
        ["sluice", "stack", "up"],
        ["eval", "$(sluice stack up)"],
        ["e", "4"],
    ]


@pytest.mark.parametrize(
    "script",
    [
        "sluice begin",
        "sluice status --patient 5",
        "sluice status --patience soon",
        "sluice dlq redrive 1",  # a reason is required
        "sluice status here",
        "sluice",
        "make instal",
        "python -m sluice.brige",
        "export SLUICE_HANDLER=app",
        "kubectl apply -f deployment.yaml",
        'eval "$(sluice stack upp)"',
    ],
)
def test_a_wrong_command_is_found(script: str) -> None:
    with pytest.raises(WrongCommand):
        check_script(script)


@pytest.mark.parametrize("command", ["begin", "dlq lst", "status --patient 5", "--versions"])
def test_a_wrong_command_in_the_text_is_found(command: str) -> None:
    with pytest.raises(WrongCommand):
        check_options(command.split())
