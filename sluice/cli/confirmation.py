"""Options of commands that change something (--reason, --dry-run, --yes), and their confirmation."""

import sys
from typing import Annotated

import typer

from sluice.admin.decisions import OperationRefused
from sluice.cli.output import ask


def _given(reason: str) -> str:
    if not reason.strip():
        raise typer.BadParameter("the reason is empty; state the reason in a few words")
    return reason


Reason = Annotated[
    str, typer.Option("--reason", callback=_given, help="Reason; stored in sluice.audit with user and time.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would happen; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation; required without a terminal.")]


def require_confirmation(question: str, *, yes: bool) -> None:
    """Asks the operator, unless `yes` is set. Raises OperationRefused if the operator does not confirm, or
    if there is no terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise OperationRefused(f"{question} Cannot ask for confirmation without a terminal; pass --yes")
    if not ask(question):
        raise OperationRefused("nothing was changed")
