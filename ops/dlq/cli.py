"""`sluice dlq`: the group of commands."""

import typer

from ops.dlq.dropping import drop
from ops.dlq.exporting import export
from ops.dlq.looking import ls, show
from ops.dlq.redriving import redrive
from ops.dlq.resolving import resolve

dlq_app = typer.Typer(
    help="Events that failed, what waits behind them, and what becomes of both.",
    no_args_is_help=True,
)
for command in (ls, show, redrive, drop, resolve, export):
    dlq_app.command()(command)
