"""Commands in messages, in the template of `sluice new` and in the pages are complete."""

import re
import shlex
from pathlib import Path

import pytest

from tests.documents import ROOT, documents, inline_code
from tests.unit.docs.command_lines import WrongCommand, parse
from tests.unit.docs.message_commands import VALUE, commands_in_code, message_commands

TEMPLATE = ROOT / "sluice/project/template"


def check_complete(command: str) -> None:
    """Raises WrongCommand unless the command runs as printed, with KEY, ID and N filled in."""
    parse(shlex.split(re.sub(r"\b[A-Z]+\b", VALUE, command))[1:])


def test_commands_in_messages_are_complete() -> None:
    wrong = []
    for place, command in message_commands():
        try:
            check_complete(command)
        except WrongCommand as error:
            wrong.append(f"{place}: {error}")
    assert not wrong, "\n".join(wrong)


def test_commands_in_the_template_are_complete() -> None:
    checked = 0
    for file in TEMPLATE.rglob("*.tmpl"):
        text = (
            re.sub(r"\n[ #]*", " ", file.read_text()) if file.name.endswith(".py.tmpl") else file.read_text()
        )
        for command in re.findall(r"`(?:\.venv/bin/)?(sluice [a-z]+ [^`]*)`", text):
            check_complete(command)
            checked += 1
    assert checked > 0


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_with_arguments_in_the_pages_are_complete(page: Path) -> None:
    for code in inline_code(page):
        if re.match(r"sluice [a-z ]+ ([A-Z]|\d)", code) and "|" not in code:
            check_complete(code.partition(" > ")[0])


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("say('run `sluice init`, then `sluice send`')", ["sluice init", "sluice send"]),
        ("say(f'run `sluice dlq drop {letter.id} --reason \"…\"`')", ['sluice dlq drop 1 --reason "…"']),
        ("say('run `sluice dlq' + more + '`')", ["sluice dlq1"]),
        ("say(f'to see it: sluice trace {place}')", ["sluice trace 1"]),
        ('def f():\n    """Runs `sluice init`."""', []),
    ],
)
def test_commands_of_a_text_are_found(code: str, found: list[str]) -> None:
    assert [command for _, command in commands_in_code(code)] == found


@pytest.mark.parametrize("command", ["sluice dlq redrive 1", "sluice effects settle KEY", "sluice skip"])
def test_an_incomplete_command_is_found(command: str) -> None:
    with pytest.raises(WrongCommand):
        check_complete(command)
