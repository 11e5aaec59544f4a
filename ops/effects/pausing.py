"""`sluice effects pause|resume`: the switch in Postgres that stops all calls."""

import typer

from db.audit import insert_audits
from db.calls import EFFECTS_PAUSED
from db.switches import clear_switch, read_switch, set_switch
from ops.connecting import connected
from ops.decisions import DryRun, Reason, decide
from ops.printing import AsJson, as_json


def pause(reason: Reason, dry_run: DryRun = False, as_json_: AsJson = False) -> None:
    """Stop all calls of all effects until `resume`. A call that is running ends; nothing is lost."""
    _turn(True, reason, dry_run=dry_run, as_json_=as_json_)


def resume(reason: Reason, dry_run: DryRun = False, as_json_: AsJson = False) -> None:
    """Let calls go on: what is due is made within seconds."""
    _turn(False, reason, dry_run=dry_run, as_json_=as_json_)


def _turn(pausing: bool, reason: str, *, dry_run: bool, as_json_: bool) -> None:
    decision = decide("effects pause" if pausing else "effects resume", reason)
    with connected("sluice effects") as session:
        if dry_run:
            changed = (read_switch(session, EFFECTS_PAUSED) is None) == pausing
        else:
            with session.transaction():
                changed = (
                    set_switch(session, EFFECTS_PAUSED, actor=decision.actor, reason=reason)
                    if pausing
                    else clear_switch(session, EFFECTS_PAUSED)
                )
                insert_audits(session, decision, [("all effects", "{}")] if changed else [])
        paused = read_switch(session, EFFECTS_PAUSED)
    if as_json_:
        typer.echo(as_json({"dry_run": dry_run, "changed": changed, "paused": paused}))
    elif not changed:
        typer.echo(f"calls are paused already: {paused}" if pausing else "calls are not paused")
    else:
        would = "would be" if dry_run else "are"
        typer.echo(f"all calls {would} paused: {reason}" if pausing else f"calls {would} resumed")
