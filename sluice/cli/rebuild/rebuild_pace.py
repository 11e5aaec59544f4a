"""`sluice rebuild pause` and `resume`: a rebuild stands still, goes on, or goes on more slowly."""

import typer

from sluice.admin.decisions import decide
from sluice.admin.documents import as_json
from sluice.admin.rebuild import generation_changes
from sluice.admin.rebuild.generation_locks import require_generation
from sluice.cli.confirmation import DryRun, Reason
from sluice.cli.printing import AsJson
from sluice.cli.rebuild.rebuild_options import Number, Projection, reached
from sluice.cli.rebuild.rebuild_start import Rate

REBUILT = ("building", "ready", "retired")


def pause(
    projection: Projection,
    reason: Reason,
    generation: Number = None,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Pause a rebuild after its current chunk. Lanes that do not lag are still kept in sync."""
    _set(projection, reason, generation, dry_run, as_json_, paused=True, rate=None)


def resume(
    projection: Projection,
    reason: Reason,
    rate: Rate = None,
    generation: Number = None,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Let a rebuild go on, at --rate events a second, or as fast as it can."""
    _set(projection, reason, generation, dry_run, as_json_, paused=False, rate=rate)


def _set(
    projection: str,
    reason: str,
    generation: int | None,
    dry_run: bool,
    as_json_: bool,
    *,
    paused: bool,
    rate: int | None,
) -> None:
    with reached() as (session, _, _):
        states = ("building",) if generation is None else REBUILT
        found = require_generation(session, projection, generation, states, "nothing is rebuilt in it")
        if not dry_run:
            decision = decide(f"rebuild {'pause' if paused else 'resume'}", reason)
            kept = found.rate if paused else rate
            generation_changes.set_pace(session, found, paused=paused, rate=kept, decision=decision)
    if as_json_:
        document = {"dry_run": dry_run, "projection": projection, "generation": found.generation}
        typer.echo(as_json(document | {"paused": paused, "rate": rate}))
    else:
        would = "would " if dry_run else ""
        how = f" at {rate:,} events a second" if rate else ""
        verb = (
            ("stand still" if dry_run else "stands still") if paused else ("go on" if dry_run else "goes on")
        )
        typer.echo(f"the rebuild of generation {found.generation} of {projection} {would}{verb}{how}")
