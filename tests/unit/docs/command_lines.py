"""Checks the commands that a page shows, without running them."""

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer.main
from typer.exceptions import Exit, TyperException

from sluice.cli.main import app
from sluice.runtime.settings import PREFIX, Settings, variable
from tests.documents import ROOT

MAKEFILE = ROOT / "Makefile"
TEMPLATE_MAKEFILE = ROOT / "sluice/project/template/Makefile.tmpl"  # of projects made by `sluice new`
_SEPARATORS = re.compile(r"[|&;()]+")
_REDIRECTION = re.compile(r"\s\d?>+ *\S+")
_ROOT: Any = typer.main.get_command(app)
_BUILTINS = {"cd", "echo", "eval", "export", "kill", "set", "wait", "."}
_SETTINGS = {variable(name) for name in Settings.model_fields}


class WrongCommand(Exception):
    """Raised for a command that does not exist or does not accept these words."""


def simple_commands(text: str) -> Iterator[list[str]]:
    """Yields the words of each simple command of a script, without redirections. Also reads `$(…)`."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(_REDIRECTION.sub("", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not _SEPARATORS.fullmatch(word):
                words.append(word)
                for inner in re.findall(r"\$\((.+?)\)", word):
                    yield from simple_commands(inner)
            elif words:
                yield words
                words = []


def check_script(text: str, *, makefile: Path = MAKEFILE, runs: bool = True) -> None:
    """Raises WrongCommand for a command of the script that does not exist or does not accept its words.

    `makefile` is the Makefile of the current folder. After `cd`, the Makefile of a project made by `sluice
    new` is used. A script that the tests run may use only programs of this project.
    """
    for words in simple_commands(text):
        match [words[0].removeprefix(".venv/bin/"), *words[1:]]:
            case ["sluice", *arguments]:
                parse(arguments)
            case ["make", *targets]:
                check_targets([word for word in targets if "=" not in word], makefile)
            case ["python" | "python3", "-m", module, *_]:
                if find_spec(module) is None:
                    raise WrongCommand(f"there is no module {module}")
            case ["cd", *_]:
                makefile = TEMPLATE_MAKEFILE
            case ["export", *pairs]:
                check_settings(pair.partition("=")[0] for pair in pairs)
            case [program, *_] if runs and program not in _BUILTINS:
                raise WrongCommand(
                    f"{program} is not a program of this project; mark the block <!-- not run: … -->"
                )


def check_targets(targets: list[str], *makefiles: Path) -> None:
    """Raises WrongCommand for a target that none of the Makefiles has."""
    text = "\n".join(makefile.read_text() for makefile in makefiles)
    for target in targets:
        if not re.search(rf"^{re.escape(target)}:", text, re.MULTILINE):
            names = " or ".join(str(makefile.relative_to(ROOT)) for makefile in makefiles)
            raise WrongCommand(f"there is no target {target} in {names}")


def check_settings(names: Iterator[str]) -> None:
    """Raises WrongCommand for a variable that has the prefix of the settings but is not a setting."""
    for name in names:
        if name.startswith(PREFIX) and name not in _SETTINGS:
            raise WrongCommand(f"there is no setting {name}")


def parse(words: list[str]) -> None:
    """Parses a complete `sluice …` command as the command line does. Raises WrongCommand."""
    (command,), rest = _descend(words)
    try:
        context = _ROOT.make_context("sluice", [], resilient_parsing=True)
        command.make_context(command.name, rest, parent=None if command is _ROOT else context)
    except Exit:
        pass  # --help and --version
    except TyperException as error:
        raise WrongCommand(f"sluice {' '.join(words)}: {error.message or 'a command is missing'}") from error


def commands_of(command: Any = _ROOT, name: str = "sluice") -> Iterator[tuple[str, Any]]:
    """Yields each command with its full name, without the groups of commands."""
    if not hasattr(command, "list_commands"):
        yield name, command
        return
    for part in command.list_commands(None):
        yield from commands_of(command.get_command(None, part), f"{name} {part}")


def check_options(words: list[str]) -> None:
    """Checks that commands and options exist; values may be missing. Raises WrongCommand."""
    commands, rest = _descend(words)
    parameters = [parameter for command in commands for parameter in command.params]
    known = {"--help"}.union(*(parameter.opts + parameter.secondary_opts for parameter in parameters))
    for word in rest:
        if re.fullmatch(r"--?[a-z].*", word) and word.partition("=")[0] not in known:
            raise WrongCommand(f"sluice {' '.join(words)}: there is no option {word}")


def _descend(words: list[str]) -> tuple[list[Any], list[str]]:
    """Returns the commands that the first words name, and the other words. `ls|show` names two commands."""
    commands, rest = [_ROOT], list(words)
    while hasattr(commands[0], "get_command") and rest and not rest[0].startswith("-"):
        names = rest.pop(0).split("|")
        commands = [commands[0].get_command(None, name) for name in names]
        if None in commands:
            raise WrongCommand(f"sluice {' '.join(words)}: there is no command {'|'.join(names)}")
    return commands, rest
