"""`sluice`: the operator's command line, and how it says what went wrong."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from db.errors import DeploymentBroken
from db.tables import TableRefused
from ops.audit.cli import audit_app
from ops.decisions import NotDone
from ops.dlq.cli import dlq_app
from ops.doctor.cli import doctor
from ops.effects.cli import effects_app
from ops.init_cli import init
from ops.outbox.cli import outbox_app
from ops.pausing.cli import pause, resume
from ops.queue.cli import queue_app
from ops.reaching import ServiceFailed, reaching_services
from ops.rebuild.cli import rebuild_app
from ops.rerouting.accepting import accept
from ops.rerouting.resharding import reshard
from ops.send.cli import send
from ops.send.event_lines import SendRefused
from ops.send.sending import SendFailed
from ops.stack import StackError
from ops.stack.cli import stack_app
from ops.status.cli import status
from ops.trace.cli import trace
from ops.verify.cli import verify
from ops.workers.cli import workers
from tasks.faults import faults
from tasks.handlers import HandlersRefused
from tasks.settings import SettingsError

VERSION = "0.1.0"  # of pyproject.toml, which an image does not hold
FAILED_EXIT_CODE = 2
HINT = 'Set what is missing, or run: eval "$(sluice stack up)"'
EXPECTED = (
    HandlersRefused,
    TableRefused,
    StackError,
    SendRefused,
    SendFailed,
    ServiceFailed,
    NotDone,
    DeploymentBroken,
)


class OneSentence(TyperGroup):
    """Commands whose expected errors are one sentence on stderr and exit code 2, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            with reaching_services():
                return super().invoke(ctx)
        except SettingsError as error:
            _fail(f"{error}. {HINT}" if "Field required" in str(error) else str(error))
        except EXPECTED as error:
            _fail(str(error))


app = typer.Typer(
    cls=OneSentence,
    name="sluice",
    help="Kafka events to Postgres state, effectively once. To begin: stack up, init, send, status.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(init)
app.add_typer(stack_app, name="stack")
app.command()(send)
app.command()(status)
app.command()(workers)
app.command()(doctor)
for command in (pause, resume, accept, reshard):
    app.command()(command)
app.command()(verify)
app.command()(trace)
app.add_typer(outbox_app, name="outbox")
app.add_typer(effects_app, name="effects")
app.add_typer(dlq_app, name="dlq")
app.add_typer(rebuild_app, name="rebuild")
app.add_typer(audit_app, name="audit")
app.add_typer(queue_app, name="queue")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sluice {VERSION}")
        raise typer.Exit


@app.callback()
def prepare(
    _version: Annotated[
        bool, typer.Option("--version", help="Say the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Before every command."""
    # Handlers are found from where one stands, as `python -m bridge` and `celery -A` find them.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        faults.arm(os.environ.get("SLUICE_FAULTS", ""))
    except ValueError as error:
        _fail(str(error))


def _fail(text: str) -> None:
    typer.echo(f"sluice: {text}", err=True)
    raise typer.Exit(FAILED_EXIT_CODE)


if __name__ == "__main__":
    app()
