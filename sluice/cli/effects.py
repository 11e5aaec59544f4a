"""`sluice effects`: the group of commands."""

import typer

from sluice.cli.effects_change import pause, reconcile, resume, retry, settle
from sluice.cli.effects_list import ls, show

effects_app = typer.Typer(
    help="Calls of side effects: how they went, and what becomes of those that did not succeed.",
    no_args_is_help=True,
)
for command in (ls, show, reconcile, retry, settle, pause, resume):
    effects_app.command()(command)
