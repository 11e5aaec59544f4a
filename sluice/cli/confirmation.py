"""What an operator decides by hand: who it is, why, whether it is only tried, and whether it is meant."""

import sys
from typing import Annotated

import typer

from sluice.admin.decisions import OperationRefused
from sluice.cli.output import ask


def _given(reason: str) -> str:
    if not reason.strip():
        raise typer.BadParameter("say why, in a few words")
    return reason


Reason = Annotated[
    str, typer.Option("--reason", callback=_given, help="Why; kept in sluice.audit with who and when.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; needed where there is no terminal.")]


def require_confirmation(question: str, *, yes: bool) -> None:
    """Returns if the operator means it. Raises OperationRefused if not, or if there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise OperationRefused(f"{question} There is no terminal to ask at: say --yes if it is meant")
    if not ask(question):
        raise OperationRefused("nothing was changed")
