"""`sluice queue ls|resume`: lists queues, and resumes a halted queue."""

from typing import Annotated

import typer

from sluice.admin.connection import connected
from sluice.admin.decisions import decide
from sluice.admin.documents import documents
from sluice.admin.pause import resume_halted
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.output import print_refusal, say, say_document
from sluice.cli.printing import AsJson
from sluice.cli.tables import table_of
from sluice.db.admin.queue_admin import ListedQueue, read_queues
from sluice.runtime.terminal_text import counted

queue_app = typer.Typer(help="Show halted queues, and resume them.", no_args_is_help=True)


@queue_app.command()
def ls(
    halted: Annotated[bool, typer.Option("--halted", help="Show only halted queues.")] = False,
    as_json_: AsJson = False,
) -> None:
    """Show queues: if and why they are halted, and how many of the last events failed."""
    with connected("sluice queue", report_refusal=print_refusal) as session:
        found = [queue for queue in read_queues(session) if queue.halted_reason or not halted]
    if as_json_:
        say_document(documents(found))
        return
    if not found:
        say("no queue is halted" if halted else "no queue has a row: run `sluice init`")
        return
    headings = ("queue", "halted", "since", "died", "of the last", "deaths accepted")
    say(table_of(headings, [_cells(queue) for queue in found], folded=("halted",)))


@queue_app.command()
def resume(
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue, such as payment.3.")],
    reason: Reason,
    accept_deaths: Annotated[
        int,
        typer.Option(
            "--accept-deaths",
            min=0,
            metavar="N",
            help="Allow N more dead letters before the queue halts again.",
        ),
    ] = 0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Resume a queue that halted because too many events failed.

    If the deployment is broken, repair the deployment: the queue then
    resumes without this command. If you resume the queue before the repair,
    the queue halts again. If the events themselves are bad, pass
    --accept-deaths: these events then become dead letters.
    """
    if accept_deaths and not dry_run:
        require_confirmation(
            f"Up to {counted(accept_deaths, 'more event')} of {queue} may become dead letters.",
            yes=yes,
        )
    decision = decide("queue resume", reason)
    with connected("sluice queue") as session:
        before = resume_halted(session, queue, accept_deaths, decision, dry_run=dry_run)
    document = before._asdict() | {"accepts": accept_deaths, "dry_run": dry_run}
    verb = "would continue" if dry_run else "continues"
    was = before.halted_reason or "it was not halted"
    if as_json_:
        say_document(document)
    else:
        say(f"{queue} {verb} ({was}); deaths accepted: {accept_deaths}")


def _cells(queue: ListedQueue) -> tuple[object, ...]:
    since = None if queue.halted_at is None else queue.halted_at.isoformat(timespec="seconds")
    return queue.queue, queue.halted_reason, since, queue.deaths, queue.tried, queue.accepted_deaths
