"""`sluice rebuild`: its commands in one place."""

import typer

from ops.rebuild.checkpointing import checkpoint
from ops.rebuild.comparing import approve, diff
from ops.rebuild.looking import status
from ops.rebuild.pacing import pause, resume
from ops.rebuild.planning import plan
from ops.rebuild.starting import start
from ops.rebuild.swapping import cancel, drop, swap

rebuild_app = typer.Typer(
    help="A projection computed anew beside the live one, compared with it, and swapped in.",
    no_args_is_help=True,
)
for command in (plan, start, status, pause, resume, cancel, diff, approve, swap, drop, checkpoint):
    rebuild_app.command()(command)
