"""`sluice dlq`: the group of commands."""

import typer

from sluice.cli.dlq_change import drop, redrive, resolve
from sluice.cli.dlq_list import export, ls, show

dlq_app = typer.Typer(
    help="Events that failed, what waits behind them, and what becomes of both.",
    no_args_is_help=True,
)
for command in (ls, show, redrive, drop, resolve, export):
    dlq_app.command()(command)
