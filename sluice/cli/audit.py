"""`sluice audit ls`: the decisions of operators, with their reasons. Changes nothing."""

from typing import Annotated

import typer

from sluice.admin.connection import connected
from sluice.admin.documents import documents
from sluice.cli.output import print_refusal, say, say_document
from sluice.cli.printing import AsJson
from sluice.cli.tables import table_of
from sluice.db.admin.audit import read_audits

audit_app = typer.Typer(help="Show the decisions of operators, with user and reason.", no_args_is_help=True)


@audit_app.callback()
def group() -> None:
    """Show the decisions of operators, with user and reason."""


@audit_app.command()
def ls(
    verb: Annotated[
        str | None,
        typer.Option("--verb", help='A command, for example "dlq drop", or a group, for example dlq.'),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option("--subject", help="What the decision was about, such as a queue, an event or a call."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of rows.")] = 50,
    as_json_: AsJson = False,
) -> None:
    """Show decisions, newest first. With --json, also show their details."""
    with connected("sluice audit", report_refusal=print_refusal) as session:
        found = read_audits(session, verb=verb, subject=subject, limit=limit)
    if as_json_:
        say_document({"audit": documents(found)})
    elif found:
        rows = ((f"{one.at:%F %T} UTC", one.actor, one.verb, one.subject, one.reason) for one in found)
        headings = ("at", "actor", "verb", "subject", "reason")
        say(table_of(headings, rows, folded=("reason",)))
    else:
        say("no decision found")
