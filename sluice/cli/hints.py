"""Commands that other commands advise, in the form that works in this terminal and folder."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from sluice.project.new_project import is_project


def own_command() -> str:
    """Returns `sluice` if the shell finds this command under that name, otherwise its path."""
    own = Path(sys.executable).with_name("sluice")
    found = shutil.which("sluice")
    if not own.exists() or (found is not None and Path(found).samefile(own)):
        return "sluice"
    return shlex.quote(os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own))


def start_hint() -> str:
    """Returns how to start the local servers."""
    if is_project(Path.cwd()):
        return "start them with: make dev"
    return f"start them with: {own_command()} dev, or: {own_command()} stack up"


def stop_hint() -> str:
    """Returns how to stop the local servers without the loss of their data."""
    return f"to stop them: {'make stop' if is_project(Path.cwd()) else f'{own_command()} stack down'}"


def wipe_hint() -> str:
    """Returns how to delete the data of the local servers."""
    command = "make wipe" if is_project(Path.cwd()) else f"{own_command()} stack down --wipe"
    return f"to begin with an empty database: {command}"


def shell_hint(handlers: str, *, are_local: bool) -> str:
    """Returns how to run commands in another terminal.

    `handlers`: the value of SLUICE_HANDLERS. `are_local`: the servers are the local stack of this folder.
    """
    if not are_local:
        return "for commands in another terminal: set the same variables SLUICE_… there"
    if is_project(Path.cwd()):
        return "for commands in another terminal: make shell"
    return (
        f"for commands in another terminal: export SLUICE_HANDLERS={shlex.quote(handlers)};"
        f' eval "$({own_command()} stack up)"'
    )


def joined(names: Sequence[str]) -> str:
    """Returns the names as in `a, b and c`. Pure."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
