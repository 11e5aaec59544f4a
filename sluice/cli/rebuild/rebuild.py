"""`sluice rebuild`: its commands in one place."""

import typer

from sluice.cli.rebuild.rebuild_checkpoint import checkpoint
from sluice.cli.rebuild.rebuild_compare import approve, diff
from sluice.cli.rebuild.rebuild_pace import pause, resume
from sluice.cli.rebuild.rebuild_plan import plan
from sluice.cli.rebuild.rebuild_start import start
from sluice.cli.rebuild.rebuild_status import status
from sluice.cli.rebuild.rebuild_swap import cancel, drop, swap

rebuild_app = typer.Typer(
    help="A projection computed anew beside the live one, compared with it, and swapped in.",
    no_args_is_help=True,
)
for command in (plan, start, status, pause, resume, cancel, diff, approve, swap, drop, checkpoint):
    rebuild_app.command()(command)
