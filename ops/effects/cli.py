"""`sluice effects`: the group of commands."""

import typer

from ops.effects.changing import reconcile, retry, settle
from ops.effects.looking import ls, show
from ops.effects.pausing import pause, resume

effects_app = typer.Typer(
    help="Calls of side effects: how they went, and what becomes of those that did not succeed.",
    no_args_is_help=True,
)
for command in (ls, show, reconcile, retry, settle, pause, resume):
    effects_app.command()(command)
