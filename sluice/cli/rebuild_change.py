"""`sluice rebuild start|cancel|swap|drop|checkpoint`: the commands that change generations."""

import time
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from sluice.admin.connection import connected, read_environment
from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.operation_wait import until_possible
from sluice.admin.rebuild import generation_changes
from sluice.admin.rebuild.checkpoints import check_checkpoint, drop_checkpoint, make_checkpoint
from sluice.admin.rebuild.older_snapshots import SnapshotWait
from sluice.admin.rebuild.rebuild_plan import make_plan
from sluice.admin.rebuild.rebuild_progress import find_unfilled, follow
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson
from sluice.cli.progress import progress_bar
from sluice.cli.rebuild_options import (
    DEFAULT_PATIENCE_SECONDS,
    FromCheckpoint,
    Number,
    Patience,
    Projection,
    Rate,
    report_older,
    report_waiting,
)
from sluice.cli.rebuild_pace import call_rebuild_workers
from sluice.db.connection import Session
from sluice.db.projections.generation_tables import count_rows
from sluice.runtime.terminal_text import counted

LINE_SECONDS = 5.0  # between two lines of progress without a terminal


def start(
    projection: Projection,
    reason: Reason,
    rate: Rate = None,
    checkpoint: FromCheckpoint = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Show the progress until the generation is ready.")
    ] = True,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Start a new generation of a projection, computed by the current code.

    Workers on the queue `rebuild` fill the generation from the beginning of the
    log, or from a checkpoint. Rows that no later event changes stay as they are
    in the checkpoint. Readers do not see the new generation. Live traffic
    continues. No event is emitted and no call is made. The rebuild continues if
    you stop this command: see `sluice rebuild status`. Prints a warning if no
    worker serves the queue `rebuild`.
    """
    settings, registry, urls = read_environment()
    with connected("sluice rebuild") as session:
        plan = make_plan(session, registry, urls, settings.share, projection, checkpoint)
        if plan.refusals:
            raise OperationRefused("; ".join(plan.refusals))
        number = None
        if not dry_run:
            decision = decide("rebuild start", reason)
            number = until_possible(
                lambda: generation_changes.begin(
                    session,
                    registry,
                    projection,
                    rate=rate,
                    compacted_topics=plan.compacted_topics,
                    decision=decision,
                    checkpoint=plan.checkpoint,
                ),
                DEFAULT_PATIENCE_SECONDS,
                waiting=report_waiting,
            )
            call_rebuild_workers(session, settings, projection, number)
        records = f"{counted(plan.records, 'record')}"
        if number is None:
            text = f"{projection} would get a generation of revision {plan.revision}: {records}"
        else:
            text = f"generation {number} of {projection} is building: {records} to read"
        say(text, err=as_json_)
        if number is not None and not wait and (unfilled := find_unfilled(session, projection, number)):
            say(unfilled, err=True)
        if number is not None and wait:
            _show_progress(session, projection, number)
            say(f"generation {number} is ready: `sluice rebuild diff {projection}`", err=as_json_)
    if as_json_:
        document = {"dry_run": dry_run, "projection": projection, "generation": number}
        document |= {"revision": plan.revision, "records": plan.records, "from": checkpoint}
        say_document(document)


def _show_progress(session: Session, projection: str, generation: int) -> None:
    columns = (BarColumn(), MofNCompleteColumn(), "{task.fields[rate]} events/s", TimeRemainingColumn())
    name = f"{projection}, generation {generation}"
    with progress_bar("{task.description}", *columns) as progress:
        bar = progress.add_task(name, total=None, rate="-")
        printed_at = float("-inf")
        for moved in follow(session, projection, generation):
            done, total, rate = moved.reached.done, moved.reached.total, f"{moved.events_per_second:,.0f}"
            progress.update(bar, completed=done, total=total, rate=rate)
            if moved.unfilled is not None:
                say(moved.unfilled, err=True)
            if progress.disable and time.monotonic() - printed_at >= LINE_SECONDS:
                printed_at = time.monotonic()
                say(f"{name}: {done:,} of {total:,}, {rate} per second", err=True)


def swap(
    projection: Projection,
    reason: Reason,
    back: Annotated[bool, typer.Option("--back", help="Swap to the previous generation.")] = False,
    generation: Number = None,
    patience: Patience = DEFAULT_PATIENCE_SECONDS,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Make another generation live: all readers see it at once.

    Requires a diff report, approval of its differences, and a generation that
    has caught up. Waits for the end of transactions that began before the new
    generation was filled, and names them; Ctrl-C changes nothing. The previous
    generation keeps receiving events, so `swap --back` restores its rows (not
    its code) until you drop that generation.
    """
    registry = read_environment().registry
    with connected("sluice rebuild") as session:
        found, before = generation_changes.plan_swap(session, registry, projection, generation, back=back)
        snapshots = SnapshotWait()
        if dry_run:
            report_older(session, snapshots, found)
        else:
            require_confirmation(
                f"Readers of {projection} will see generation {found.generation}, not {before}.", yes=yes
            )
            decision = decide("rebuild swap", reason)
            until_possible(
                lambda: generation_changes.swap(session, registry, found, decision, snapshots),
                patience,
                waiting=report_waiting,
            )
    if as_json_:
        document = {"dry_run": dry_run, "projection": projection, "from": before, "to": found.generation}
        say_document(document)
    else:
        would = "would see" if dry_run else "see"
        say(f"readers of {projection} {would} generation {found.generation}; {before} is kept in sync")


def drop(
    projection: Projection,
    reason: Reason,
    generation: Number = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Drop a generation that is not live, with its rows. You cannot undo this."""
    _end(projection, reason, generation, yes, dry_run, as_json_, "drop")


def cancel(
    projection: Projection,
    reason: Reason,
    generation: Number = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Cancel a running rebuild and drop its generation. Live traffic is not affected."""
    _end(projection, reason, generation, yes, dry_run, as_json_, "cancel")


def _end(
    projection: str,
    reason: str,
    generation: int | None,
    yes: bool,
    dry_run: bool,
    as_json_: bool,
    verb: str,
) -> None:
    require = generation_changes.require_building if verb == "cancel" else generation_changes.require_ended
    with connected("sluice rebuild") as session:
        found = require(session, projection, generation)
        rows = count_rows(session, found.table)
        size = "too many rows to count" if rows is None else counted(rows, "row")
        said = f"generation {found.generation} of {projection}, {found.state}, {size}"
        if not dry_run:
            require_confirmation(f"{said}: it will be dropped.", yes=yes)
            decision = decide(f"rebuild {verb}", reason)
            until_possible(
                lambda: generation_changes.drop(session, found, decision),
                DEFAULT_PATIENCE_SECONDS,
                waiting=report_waiting,
            )
    if as_json_:
        document = {"dry_run": dry_run, "projection": projection, "generation": found.generation}
        say_document(document | {"rows": rows})
    else:
        say(f"{said}: {'would be ' if dry_run else ''}dropped")


def checkpoint(
    projection: Projection,
    name: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Name of the checkpoint: small letters, digits, _.")
    ],
    reason: Reason,
    drop: Annotated[bool, typer.Option("--drop", help="Drop the checkpoint instead.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Keep a copy of the live generation as of one moment, with the positions in its topics.

    `rebuild start --from CHECKPOINT` begins with this copy. So you can compute
    the last weeks again when the topics no longer hold their first records. The
    copy needs as much disk space as the generation. Live traffic continues.
    """
    with connected("sluice rebuild") as session:
        check_checkpoint(session, projection, name, drop=drop)
        if not dry_run and drop:
            require_confirmation(f"Checkpoint {name} of {projection} will be dropped.", yes=yes)
            drop_checkpoint(session, projection, name, decide("rebuild checkpoint --drop", reason))
        elif not dry_run:
            make_checkpoint(session, projection, name, decide("rebuild checkpoint", reason))
    if as_json_:
        say_document({"dry_run": dry_run, "projection": projection, "checkpoint": name, "drop": drop})
    else:
        verb = "dropped" if drop else "kept"
        say(f"checkpoint {name} of {projection}: {'would be ' if dry_run else ''}{verb}")
