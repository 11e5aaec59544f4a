"""`sluice rebuild swap`, and what ends a generation: `cancel` and `drop`."""

from typing import Annotated

import typer

from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.documents import as_json
from sluice.admin.rebuild import generation_changes
from sluice.admin.rebuild.generation_locks import require_generation
from sluice.admin.rebuild.plan import require_declared
from sluice.admin.rebuild.preflight import swap_refusals, table_refusals
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.printing import AsJson
from sluice.cli.rebuild.patience import PATIENCE_SECONDS, until_possible
from sluice.cli.rebuild.rebuild_options import Number, Patience, Projection, reached
from sluice.db.connection import Session
from sluice.db.projections.generation_deaths import read_deaths
from sluice.db.projections.generation_reports import read_newest_report
from sluice.db.projections.generation_tables import read_table
from sluice.db.projections.generations import Generation, read_generations, read_projection_snapshot
from sluice.runtime.fault_points import faults
from sluice.tasks.fold.registry import Registry


def swap(
    projection: Projection,
    reason: Reason,
    back: Annotated[bool, typer.Option("--back", help="To the generation that was live before.")] = False,
    generation: Number = None,
    patience: Patience = 30.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Make readers see another generation, all of them at once.

    Wanted before: a report (`diff`), its approval if it shows differences, and
    lockstep. The generation they saw is kept up from then on, so that `swap
    --back` brings its rows back, not the code that made them, until `drop`.
    """
    with reached() as (session, registry, _):
        require_declared(registry, projection)
        found = _to_be_live(session, projection, generation, back=back)
        refusals = _refusals(session, registry, found)
        if refusals:
            raise OperationRefused(f"generation {found.generation} of {projection}: {'; '.join(refusals)}")
        before = read_projection_snapshot(session).live[projection]
        if not dry_run:
            require_confirmation(
                f"Readers of {projection} go from generation {before} to {found.generation}.", yes=yes
            )
            decision = decide("rebuild swap", reason)
            faults.reach("swap.before")
            until_possible(lambda: generation_changes.swap(session, registry, found, decision), patience)
    if as_json_:
        typer.echo(
            as_json({"dry_run": dry_run, "projection": projection, "from": before, "to": found.generation})
        )
    else:
        would = "would see" if dry_run else "see"
        typer.echo(
            f"readers of {projection} {would} generation {found.generation}; {before} is kept up with it"
        )


def drop(
    projection: Projection,
    reason: Reason,
    generation: Number = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Drop a generation that is not live, with its rows. There is no way back to it."""
    _end(projection, reason, generation, ("retired", "failed", "ready"), yes, dry_run, as_json_, "drop")


def cancel(
    projection: Projection,
    reason: Reason,
    generation: Number = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """End a rebuild that is under way and drop what it made. Live traffic notices nothing."""
    _end(projection, reason, generation, ("building",), yes, dry_run, as_json_, "cancel")


def _end(
    projection: str,
    reason: str,
    generation: int | None,
    states: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    as_json_: bool,
    verb: str,
) -> None:
    with reached() as (session, _, _):
        what = f"to {verb} it it must be {' or '.join(states)}"
        found = require_generation(session, projection, generation, states, what)
        rows = read_table(session, found.table).estimated_rows
        said = f"generation {found.generation} of {projection}, {found.state}, some {rows:,} rows"
        if not dry_run:
            require_confirmation(f"{said}: it is dropped.", yes=yes)
            decision = decide(f"rebuild {verb}", reason)
            until_possible(lambda: generation_changes.drop(session, found, decision), PATIENCE_SECONDS)
    if as_json_:
        typer.echo(as_json({"dry_run": dry_run, "projection": projection, "generation": found.generation}))
    else:
        typer.echo(f"{said}: {'would be ' if dry_run else ''}dropped")


def _to_be_live(session: Session, projection: str, generation: int | None, *, back: bool) -> Generation:
    if not back:
        return require_generation(
            session, projection, generation, ("ready",), "only one that is ready can be swapped in"
        )
    retired = [one for one in read_generations(session, projection) if one.state == "retired"]
    if generation is None and retired:
        # The one that readers saw last.
        newest = max(retired, key=lambda one: (one.live_at is not None, one.live_at))
        generation = newest.generation
    return require_generation(
        session, projection, generation, ("retired",), "only one that was live before can come back"
    )


def _refusals(session: Session, registry: Registry, found: Generation) -> list[str]:
    projection = found.projection
    live = read_projection_snapshot(session).live[projection]
    columns = [column.name for column in registry.projection_tables[projection].columns]
    view = read_table(session, projection)
    refusals = list(
        table_refusals(projection, found.generation, columns, read_table(session, found.table), view)
    )
    if not found.has_been_live:
        report = read_newest_report(session, projection, found.generation)
        refusals += swap_refusals(
            differing=report.differing if report else None,
            against=report.against if report else None,
            live=live,
            approved=bool(report and report.approved_at),
            deaths=read_deaths(session, projection, found.generation, 0)[0],
        )
    return refusals
