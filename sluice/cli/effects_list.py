"""`sluice effects ls|show`: the calls as they are. Changes nothing."""

from typing import Annotated

import typer
from rich.console import Console

from sluice.admin.connection import connected
from sluice.admin.documents import as_json, documents
from sluice.cli.ages import read_age
from sluice.cli.effects_options import Key, read_registry, require_call
from sluice.cli.effects_tables import (
    call_table,
    conflict_table,
    count_documents,
    count_table,
    reasons_to_wait,
)
from sluice.cli.printing import AsJson, field_lines
from sluice.db.admin.call_admin import Chosen, count_calls, read_call_conflicts, read_calls, read_calls_before
from sluice.db.connection import Session
from sluice.db.delivery.switches import read_switch
from sluice.db.sending.calls import EFFECTS_PAUSED
from sluice.tasks.effects.call_states import CallState
from sluice.tasks.effects.executor import holding_effects

MOST_BEFORE = 10  # calls in front of another one that are named


def ls(
    state: Annotated[CallState | None, typer.Option("--state")] = None,
    effect: Annotated[str | None, typer.Option("--effect")] = None,
    entity: Annotated[str | None, typer.Option("--entity", help="Entity type, as in order.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Key of the entity, as in order-99.")] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", parser=read_age, metavar="AGE", help="As in 90s, 10m, 2h.")
    ] = None,
    conflicts: Annotated[
        bool, typer.Option("--conflicts", help="Instead: calls not made, their key having other args.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows at most.")] = 50,
    after: Annotated[int, typer.Option(min=0, help="Go on behind this id.")] = 0,
    as_json_: AsJson = False,
) -> None:
    """Show calls: how many there are per effect and state, then each, oldest first."""
    with connected("sluice effects") as session:
        if conflicts:
            _ls_conflicts(session, effect, after, limit, as_json_=as_json_)
            return
        chosen = Chosen(state.value if state else None, effect, entity, key, older_than)
        paused = read_switch(session, EFFECTS_PAUSED)
        counts, calls = count_calls(session, chosen), read_calls(session, chosen, after=after, limit=limit)
    following = calls[-1].id if len(calls) == limit else None
    if as_json_:
        shown = {"paused": paused, "counts": count_documents(counts), "calls": documents(calls)}
        typer.echo(as_json(shown | {"next_after": following}))
        return
    if paused is not None:
        typer.echo(f"all calls are paused: {paused}\n")
    if not counts:
        typer.echo("no such call")
        return
    Console().print(count_table(counts), "", call_table(calls))
    if following is not None:
        typer.echo(f"\nthere may be more: --after {following}")


def show(key: Key, as_json_: AsJson = False) -> None:
    """Show one call whole, and if it is pending, what it waits for."""
    registry = read_registry()
    with connected("sluice effects") as session:
        call = require_call(session, key)
        waits_for = reasons_to_wait(
            call,
            before=read_calls_before(session, key, holding_effects(registry), limit=MOST_BEFORE),
            paused=read_switch(session, EFFECTS_PAUSED),
            declared=call.effect in registry.effects,
        )
    document = call._asdict() | {"waits_for": waits_for}
    typer.echo(as_json(document) if as_json_ else "\n".join(field_lines(document)))


def _ls_conflicts(session: Session, effect: str | None, after: int, limit: int, *, as_json_: bool) -> None:
    found = read_call_conflicts(session, effect, after=after, limit=limit)
    if as_json_:
        typer.echo(as_json({"conflicts": documents(found)}))
    elif found:
        Console().print(conflict_table(found))
    else:
        typer.echo("no key was taken with other args")
