"""`sluice effects`: the group of commands, and the commands that only read: ls, show."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from sluice.admin.connection import connected, read_environment
from sluice.admin.documents import documents
from sluice.admin.effects import read_reasons_to_wait, require_call
from sluice.cli.effects_change import pause, reconcile, resume, retry, settle
from sluice.cli.output import print_refusal, say, say_document
from sluice.cli.printing import MOST_REASONS, AsJson, Full, read_age, say_age, say_fields
from sluice.cli.tables import Table, table_of
from sluice.db.admin.call_admin import (
    CallConflict,
    CallReason,
    Chosen,
    ListedCall,
    count_call_reasons,
    count_calls,
    read_call_conflicts,
    read_calls,
)
from sluice.db.connection import Session
from sluice.db.delivery.switches import read_switch
from sluice.db.records import CallState
from sluice.db.sending.calls import EFFECTS_PAUSED

Key = Annotated[str, typer.Argument(metavar="KEY", help="Key of a call, from `sluice effects ls`.")]


def ls(
    state: Annotated[CallState | None, typer.Option("--state", help="State of the call.")] = None,
    effect: Annotated[str | None, typer.Option("--effect", help="Name of the effect.")] = None,
    entity: Annotated[str | None, typer.Option("--entity", help="Entity type, such as order.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Key of the entity, such as order-99.")] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than", parser=read_age, metavar="AGE", help="Minimum age, such as 90s, 10m or 2h."
        ),
    ] = None,
    conflicts: Annotated[
        bool,
        typer.Option(
            "--conflicts",
            help="Show calls that were not made, because an earlier call with the same call key had other"
            " args.",
        ),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of rows.")] = 50,
    after: Annotated[int, typer.Option(min=0, help="Show only rows that follow the row with this id.")] = 0,
    as_json_: AsJson = False,
) -> None:
    """Show calls: first their number per effect and state, then a row per call, newest first.

    An error that several calls share is printed once, with the number of these
    calls.
    """
    with connected("sluice effects", report_refusal=print_refusal) as session:
        if conflicts:
            _ls_conflicts(session, effect, after, limit, as_json_=as_json_)
            return
        chosen = Chosen(state.value if state else None, effect, entity, key, older_than)
        paused = read_switch(session, EFFECTS_PAUSED)
        counts = count_calls(session, chosen)
        calls = read_calls(session, chosen, after=after, limit=limit)
        reasons = [] if as_json_ else count_call_reasons(session, chosen, limit=MOST_REASONS)
    following = calls[-1].id if len(calls) == limit else None
    if as_json_:
        shown = {"paused": paused, "counts": count_documents(counts), "calls": documents(calls)}
        say_document(shown | {"next_after": following})
        return
    if paused is not None:
        say(f"all calls are paused: {paused}", "")
    if not counts:
        say("no call matches the filters")
        return
    say(count_table(counts), "")
    if reasons:
        say(reason_table(reasons), "")
    say(call_table(calls, reasons))
    if following is not None:
        say("", f"there may be more rows; to see them, pass --after {following}")


def show(key: Key, full: Full = False, as_json_: AsJson = False) -> None:
    """Show all fields of one call. If the call is pending, also show what it waits for."""
    registry = read_environment().registry
    with connected("sluice effects", report_refusal=print_refusal) as session:
        call = require_call(session, key)
        waits_for = read_reasons_to_wait(session, registry, call)
    document = call._asdict() | {"waits_for": waits_for}
    if as_json_:
        say_document(document)
    else:
        say_fields(document, full=full)


def _ls_conflicts(session: Session, effect: str | None, after: int, limit: int, *, as_json_: bool) -> None:
    found = read_call_conflicts(session, effect, after=after, limit=limit)
    if as_json_:
        say_document({"conflicts": documents(found)})
    elif found:
        say(conflict_table(found))
    else:
        say("no call has the key of an earlier call with other args")


def count_documents(counts: Iterable[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """Returns (effect, state, calls) tuples as JSON objects."""
    return [{"effect": effect, "state": state, "calls": calls} for effect, state, calls in counts]


def count_table(counts: Sequence[tuple[str, str, int]]) -> Table:
    """Returns a row per effect, with a column for each state that occurs."""
    by_effect: dict[str, dict[str, int]] = {}
    for effect, state, calls in counts:
        by_effect.setdefault(effect, {})[state] = calls
    states = [state.value for state in CallState if any(state.value in row for row in by_effect.values())]
    return table_of(
        ("effect", *states),
        ((effect, *(row.get(state, 0) for state in states)) for effect, row in by_effect.items()),
    )


def reason_table(reasons: Iterable[CallReason]) -> Table:
    """Returns a row per error that several calls share: their number, and the newest call."""
    return table_of(
        ("calls", "effect", "state", "newest key", "error"),
        (
            (one.calls, one.effect, one.state, one.newest_key, f"{number}: {one.error}")
            for number, one in enumerate(reasons, 1)
        ),
        folded=("error",),
        whole="`sluice effects show KEY --full`",
    )


def call_table(calls: Iterable[ListedCall], reasons: Sequence[CallReason]) -> Table:
    """Returns a row per call: key, entity, state, the time of the next attempt, and the last error."""
    numbers = {(one.effect, one.state, one.error): f"error {n}" for n, one in enumerate(reasons, 1)}
    return table_of(
        ("key", "effect", "entity", "state", "attempt", "age", "due in", "error"),
        (
            (
                one.effect_key,
                one.effect,
                one.entity if one.entity_key is None else f"{one.entity}/{one.entity_key}",
                one.state,
                one.attempt,
                say_age(one.age_seconds),
                say_age(one.due_in_seconds) if one.state == CallState.PENDING.value else None,
                numbers.get((one.effect, one.state, one.error or ""), one.error),
            )
            for one in calls
        ),
        folded=("error",),
        whole="`sluice effects show KEY --full`",
    )


def conflict_table(conflicts: Iterable[CallConflict]) -> Table:
    """Returns a row per conflict: the key, the args that were refused, and the args that count."""
    return table_of(
        ("id", "key", "not called with", "called with", "state"),
        ((one.id, one.effect_key, one.args, one.made_args, one.state) for one in conflicts),
        folded=("not called with", "called with"),
    )


effects_app = typer.Typer(
    help="Show the calls of side effects, and decide about calls that did not succeed.",
    no_args_is_help=True,
)
for command in (ls, show, reconcile, retry, settle, pause, resume):
    effects_app.command()(command)
