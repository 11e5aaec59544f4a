"""`sluice rebuild`: the group of commands, and the commands that only read or compare."""

from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from sluice.admin.connection import connected, read_environment
from sluice.admin.decisions import decide
from sluice.admin.operation_wait import until_possible
from sluice.admin.rebuild import report as reporting
from sluice.admin.rebuild.rebuild_plan import make_plan, require_declared
from sluice.admin.rebuild.rebuild_progress import generation_document
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.output import print_refusal, say, say_document
from sluice.cli.printing import AsJson
from sluice.cli.progress import progress_bar
from sluice.cli.rebuild_change import cancel, checkpoint, drop, start, swap
from sluice.cli.rebuild_options import (
    DEFAULT_PATIENCE_SECONDS,
    FromCheckpoint,
    Number,
    Patience,
    Projection,
    report_waiting,
)
from sluice.cli.rebuild_pace import pause, resume
from sluice.cli.rebuild_tables import plan_document, plan_lines, report_document, report_lines, status_lines
from sluice.db.connection import Session
from sluice.db.projections.checkpoints import read_checkpoints
from sluice.db.projections.comparison import Comparison, Report
from sluice.db.projections.generation_tables import read_table
from sluice.db.projections.generations import Generation, read_generations
from sluice.runtime.terminal_text import counted
from sluice.tasks.fold.registry import Registry


def plan(projection: Projection, checkpoint: FromCheckpoint = None, as_json_: AsJson = False) -> None:
    """Show the records that a rebuild would read, and the reasons that prevent it. Changes nothing.

    Exit code 1 if the rebuild would be refused.
    """
    settings, registry, urls = read_environment()
    with connected("sluice rebuild", report_refusal=print_refusal) as session:
        found = make_plan(session, registry, urls, settings.share, projection, checkpoint)
    if as_json_:
        say_document(plan_document(found))
    else:
        say(*plan_lines(found))
    if found.refusals:
        raise typer.Exit(1)


def status(
    projection: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A projection. Default: all projections.")
    ] = None,
    as_json_: AsJson = False,
) -> None:
    """Show the generations (copies) of projections, their states and their progress."""
    with connected("sluice rebuild", report_refusal=print_refusal) as session:
        found = [generation_document(session, one) for one in read_generations(session, projection)]
        checkpoints = read_checkpoints(session, projection)
    if as_json_:
        say_document(found)
    else:
        say(*status_lines(found, checkpoints))


def diff(
    projection: Projection,
    generation: Number = None,
    patience: Patience = DEFAULT_PATIENCE_SECONDS,
    as_json_: AsJson = False,
) -> None:
    """Compare a generation with the live generation, row by row, and store the report.

    Reads both generations as of one moment, when both had applied the same
    events.
    Live traffic continues. You may repeat the comparison; the last report
    counts.
    """
    registry = read_environment().registry
    with connected("sluice rebuild") as session:
        require_declared(registry, projection)
        found = reporting.require_comparable(session, projection, generation, verb="compared")
        report = until_possible(lambda: _compare(session, registry, found), patience, waiting=report_waiting)
    if as_json_:
        say_document(report_document(report))
    else:
        say(*report_lines(report))


def approve(
    projection: Projection,
    reason: Reason,
    generation: Number = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Approve the differences of the last report. A swap requires this approval."""
    with connected("sluice rebuild") as session:
        found = reporting.require_comparable(session, projection, generation, verb="approved")
        report = reporting.require_report(session, found)
        rows = counted(report.differing, "row")
        said = f"generation {found.generation} differs from {report.against} in {rows}"
        if not dry_run:
            require_confirmation(f"{said}. The differences will be approved.", yes=yes)
            reporting.approve(session, report, decide("rebuild approve", reason))
    if as_json_:
        say_document({"dry_run": dry_run, "report": report.id, "differing": report.differing})
    else:
        say(f"{said}; the differences {'would be' if dry_run else 'are'} approved")


def _compare(session: Session, registry: Registry, found: Generation) -> Report:
    rows = read_table(session, found.table).estimated_rows
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress_bar("rows compared", *columns) as progress:
        bar = progress.add_task("", total=rows or None)

        def show(so_far: Comparison) -> None:
            progress.update(bar, completed=so_far.rows.total())

        return reporting.compare(session, registry, found, compared=show)


rebuild_app = typer.Typer(
    help="Compute a projection again beside the live rows, compare both, and swap.",
    no_args_is_help=True,
)
for command in (plan, start, status, pause, resume, cancel, diff, approve, swap, drop, checkpoint):
    rebuild_app.command()(command)
