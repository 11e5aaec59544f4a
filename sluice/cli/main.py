"""`sluice`: the operator's command line, and how it reports errors."""

import os
import sys
from importlib import import_module
from traceback import format_exc
from typing import Annotated, Any, NoReturn

import structlog
import typer
from typer.core import TyperGroup
from typer.exceptions import Abort, Exit, TyperException

from sluice import __version__
from sluice.cli.output import replace_unencodable, say
from sluice.runtime.fault_points import faults
from sluice.runtime.logs import show_values
from sluice.runtime.terminal_text import shown

FAILED_EXIT_CODE = 2
MISTAKE_EXIT_CODE = 1

# In the order of the help. A command is imported only when it runs: importing all takes a second.
COMMANDS = {
    "new": "sluice.cli.new:new",
    "init": "sluice.cli.init:init",
    "grants": "sluice.cli.grants:grants",
    "stack": "sluice.cli.stack:stack_app",
    "dev": "sluice.cli.dev:dev",
    "send": "sluice.cli.send:send",
    "bridge": "sluice.cli.processes:bridge",
    "worker": "sluice.cli.worker:worker",
    "relay": "sluice.cli.worker:relay",
    "effects-worker": "sluice.cli.worker:effects_worker",
    "rebuild-worker": "sluice.cli.worker:rebuild_worker",
    "beat": "sluice.cli.processes:beat",
    "flower": "sluice.cli.processes:flower",
    "status": "sluice.cli.status:status",
    "workers": "sluice.cli.workers:workers",
    "doctor": "sluice.cli.doctor:doctor",
    "pause": "sluice.cli.pause:pause",
    "resume": "sluice.cli.pause:resume",
    "accept": "sluice.cli.reroute:accept",
    "skip": "sluice.cli.skip:skip",
    "reshard": "sluice.cli.reroute:reshard",
    "dedup": "sluice.cli.dedup:dedup",
    "erase": "sluice.cli.erase:erase",
    "verify": "sluice.cli.verify:verify",
    "trace": "sluice.cli.trace:trace",
    "outbox": "sluice.cli.outbox:outbox_app",
    "effects": "sluice.cli.effects:effects_app",
    "dlq": "sluice.cli.dlq:dlq_app",
    "rebuild": "sluice.cli.rebuild:rebuild_app",
    "audit": "sluice.cli.audit:audit_app",
    "queue": "sluice.cli.queue:queue_app",
    "redis": "sluice.cli.redis_keys:redis_app",
}


class Commands(TyperGroup):
    """The group of COMMANDS. Prints an expected error as one sentence on stderr (exit code 2).

    Prints any other error with its traceback (exit code 1).
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # their names, to list and to suggest

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Imports the command. Returns None if no command has this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(module), name)
        command: Any
        if isinstance(found, typer.Typer):
            # get_command is not used: it would add the options that install completion to every group.
            command = typer.main.get_group(found)
        else:
            alone = typer.Typer(add_completion=False)
            alone.command(cmd_name)(found)
            command = typer.main.get_command(alone)
        command.name = cmd_name
        return command

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Completes the names of commands, without importing them, and options."""
        # Imported here, because typer does not export the name. If a version of typer lacks it,
        # only completion breaks.
        from typer._click.shell_completion import CompletionItem

        names = [CompletionItem(name) for name in COMMANDS if name.startswith(incomplete)]
        return [*names, *super(TyperGroup, self).shell_complete(ctx, incomplete)]

    def main(self, *words: Any, **options: Any) -> Any:
        """Runs the command line, which may also print help or a usage error."""
        replace_unencodable()
        return super().main(*words, **options)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuses an argument that is not UTF-8: no service could store it."""
        for word in args:
            try:
                word.encode()
            except UnicodeEncodeError:
                raise typer.BadParameter(f"argument {shown(word)} is not UTF-8") from None
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except (Exit, Abort):
            raise  # how a command ends
        except TyperException as error:  # a usage error
            error.message = shown(error.message)
            raise
        except Exception as error:
            sentence = _sentence(error)
            if sentence is None:
                # A bug in Sluice. Python would print the values in its text without escapes.
                say(*format_exc().rstrip().split("\n"), err=True)
                raise Exit(MISTAKE_EXIT_CODE) from error
            _fail(sentence)


app = typer.Typer(
    cls=Commands,
    name="sluice",
    help="Apply Kafka events to Postgres, effectively once. First commands: stack up, init, send, status.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"sluice {__version__}")
        raise typer.Exit


@app.callback()
def prepare(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Configures logs and fault points before every command."""
    # Logs go to stderr: programs read stdout, which holds only the result.
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%F %T", utc=False),
            structlog.processors.format_exc_info,
            show_values,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    if not os.environ.get("SLUICE_FAULTS"):
        return
    # Imported here: importing the settings takes longer than most commands run.
    from sluice.runtime.settings import read_faults

    try:
        faults.arm(read_faults(os.environ))
    except ValueError as error:
        _fail(str(error))


def _sentence(error: Exception) -> str | None:
    """Returns the sentence for an expected error, None for any other error."""
    # Imported only after a failure: a command that succeeds needs few of these modules.
    from sluice.admin.decisions import OperationRefused
    from sluice.admin.event_lines import SendRefused
    from sluice.admin.sender import SendFailed
    from sluice.admin.service_errors import ServiceFailed, failed_service
    from sluice.db.errors import DeploymentBroken
    from sluice.db.tables import TableRefused
    from sluice.project.new_project import ProjectRefused
    from sluice.runtime.installation import InstallationRefused
    from sluice.runtime.settings import SettingsError
    from sluice.stack import StackError
    from sluice.tasks.fold.registry import HandlersRefused

    refusals = (
        HandlersRefused,
        TableRefused,
        StackError,
        SendRefused,
        SendFailed,
        OperationRefused,
        DeploymentBroken,
        InstallationRefused,
        ProjectRefused,
        SettingsError,
    )
    if isinstance(error, (ServiceFailed, *refusals)):
        return str(error)
    failed = failed_service(error)
    return None if failed is None else str(failed)


def _fail(text: str) -> NoReturn:
    say(f"sluice: {text}", err=True)
    raise typer.Exit(FAILED_EXIT_CODE)


if __name__ == "__main__":
    app()
