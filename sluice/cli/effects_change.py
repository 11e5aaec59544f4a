"""`sluice effects reconcile|retry|settle|pause|resume`: the commands with which an operator changes calls."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from sluice.admin.connection import connected, read_environment
from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.effects import (
    CallChange,
    reconcile_call,
    require_call,
    require_calls,
    require_one_choice,
    retry_calls,
    settle_by_hand,
)
from sluice.admin.pause import pause_calls, resume_calls
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson, equal_lines
from sluice.db.admin.call_admin import Chosen
from sluice.db.delivery.switches import read_switch
from sluice.db.records import CallState
from sluice.db.sending.calls import EFFECTS_PAUSED
from sluice.runtime.terminal_text import counted, plural
from sluice.tasks.effects.executor import storable

Keys = Annotated[
    list[str] | None, typer.Argument(metavar="KEY", help="Keys of calls, from `sluice effects ls`.")
]
Every = Annotated[bool, typer.Option("--all", help="Select all matching calls.")]
Effect = Annotated[str | None, typer.Option("--effect", help="With --all: only calls of this effect.")]
LEFT_EXIT_CODE = 1
UNCERTAIN = CallState.UNCERTAIN


class RetriedState(StrEnum):
    """The states whose calls can be made again."""

    FAILED = CallState.FAILED
    UNCERTAIN = CallState.UNCERTAIN


class EndState(StrEnum):
    """The states that an operator can record."""

    SUCCEEDED = CallState.SUCCEEDED
    FAILED = CallState.FAILED


def reconcile(
    reason: Reason,
    keys: Keys = None,
    every: Every = False,
    effect: Effect = None,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Ask the provider for the result of uncertain calls, by the effect's `reconcile` function.

    If the function returns an answer, the call succeeded. If the function
    returns None, the call was not made, and becomes pending. If the function
    raises an error, the call stays uncertain.

    With --dry-run the provider is asked and nothing is stored.
    Exit code 1 if a call was not changed.
    """
    require_one_choice(keys, every=every)
    effects = read_environment().registry.effects
    decision = decide("effects reconcile", reason)
    with connected("sluice effects") as session:
        calls = require_calls(session, keys, Chosen(UNCERTAIN.value, effect) if every else None)
        changes = []
        for listed in calls:
            call = require_call(session, listed.effect_key)
            changes.append(reconcile_call(session, call, effects, decision, dry_run=dry_run))
    _report(changes, dry_run=dry_run, as_json_=as_json_)


def retry(
    reason: Reason,
    keys: Keys = None,
    every: Every = False,
    state: Annotated[
        RetriedState | None,
        typer.Option(
            "--state",
            metavar="failed|uncertain",
            help="Only calls in this state. --all requires it; it is valid only with --all.",
        ),
    ] = None,
    effect: Effect = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Make failed or uncertain calls again, with a fresh count of attempts.

    An uncertain call may have been made already. The provider then receives
    the call twice, and acts twice unless it deduplicates calls by key. Run
    `sluice effects reconcile` first.

    Exit code 1 if a call was not changed.
    """
    if every != (state is not None):
        raise OperationRefused(
            "--all requires --state failed or --state uncertain; --state is valid only with --all"
        )
    require_one_choice(keys, every=every)
    effects = read_environment().registry.effects
    with connected("sluice effects") as session:
        calls = require_calls(session, keys, Chosen(state.value, effect) if state else None)
        doubtful = sum(call.state == UNCERTAIN.value for call in calls)
        if doubtful and not dry_run:
            require_confirmation(
                f"{doubtful} of {counted(len(calls), 'call')} {plural(doubtful, 'is', 'are')} uncertain:"
                f" {plural(doubtful, 'it', 'they')} may be made twice.",
                yes=yes,
            )
        decision = decide("effects retry", reason)
        changes = list(retry_calls(session, calls, effects, decision, dry_run=dry_run))
    _report(changes, dry_run=dry_run, as_json_=as_json_)


def settle(
    reason: Reason,
    state: Annotated[EndState, typer.Option("--as", metavar="succeeded|failed", help="How the call ended.")],
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="Key of a call, from `sluice effects ls`.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Select all uncertain calls; valid only with --as failed.")
    ] = False,
    effect: Effect = None,
    response: Annotated[
        str | None, typer.Option("--response", metavar="JSON", help="The answer of the provider.")
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Record how an uncertain call ended, as the provider reported it.

    Sluice does not make the call again.
    """
    if response is not None and state is EndState.FAILED:
        raise OperationRefused("--response is valid only with --as succeeded")
    if (every and state is not EndState.FAILED) or (effect is not None and not every):
        raise OperationRefused("--all requires --as failed; --effect is valid only with --all")
    require_one_choice([] if key is None else [key], every=every)
    answer = None if response is None else _read_response(response)
    with connected("sluice effects") as session:
        chosen = Chosen(UNCERTAIN.value, effect) if every else None
        calls = require_calls(session, None if key is None else [key], chosen)
        uncertain = [call.effect_key for call in calls if call.state == UNCERTAIN.value]
        if not dry_run and uncertain:
            which = f"{counted(len(uncertain), 'call')}" if every else uncertain[0]
            require_confirmation(f"Sluice will record that {which} {state.value}.", yes=yes)
        decision, recorded = decide("effects settle", reason), CallState(state)
        changes = [
            settle_by_hand(
                session,
                require_call(session, effect_key),
                recorded,
                answer,
                decision,
                dry_run=dry_run,
            )
            for effect_key in (call.effect_key for call in calls)
        ]
    _report(changes, dry_run=dry_run, as_json_=as_json_)


def _read_response(text: str) -> str:
    try:
        return storable(msgspec.json.decode(text))
    except msgspec.DecodeError as error:
        raise OperationRefused(f"--response is not JSON: {error}") from error


def _report(changes: Sequence[CallChange], *, dry_run: bool, as_json_: bool) -> None:
    if as_json_:
        say_document(change_document(changes, dry_run=dry_run))
    else:
        say(*(change_lines(changes, dry_run=dry_run) or ["no call matches the filters"]))
    if any(change.after is None for change in changes):
        raise typer.Exit(LEFT_EXIT_CODE)


def pause(reason: Reason, dry_run: DryRun = False, as_json_: AsJson = False) -> None:
    """Stop all calls of all effects until `resume`. Calls in flight are completed; nothing is lost."""
    _turn(True, reason, dry_run=dry_run, as_json_=as_json_)


def resume(reason: Reason, dry_run: DryRun = False, as_json_: AsJson = False) -> None:
    """Resume calls: calls that are due are made within seconds."""
    _turn(False, reason, dry_run=dry_run, as_json_=as_json_)


def _turn(pausing: bool, reason: str, *, dry_run: bool, as_json_: bool) -> None:
    decision = decide("effects pause" if pausing else "effects resume", reason)
    turn = pause_calls if pausing else resume_calls
    with connected("sluice effects") as session:
        changed = turn(session, decision, dry_run=dry_run)
        paused = read_switch(session, EFFECTS_PAUSED)
    if as_json_:
        say_document({"dry_run": dry_run, "changed": changed, "paused": paused})
    elif not changed:
        say(f"calls are paused already: {paused}" if pausing else "calls are not paused")
    else:
        would = "would be" if dry_run else "are"
        say(f"all calls {would} paused: {reason}" if pausing else f"calls {would} resumed")


def change_lines(changes: Iterable[CallChange], *, dry_run: bool) -> list[str]:
    """Returns a line per call with its change; calls with equal changes share a line."""
    would = "would become " if dry_run else ""
    return equal_lines(
        (
            one.effect_key,
            f"{one.before or 'not there'}"
            + (f" → {would}{one.after}" if one.after else ", not changed")
            + f": {one.said}",
        )
        for one in changes
    )


def change_document(changes: Sequence[CallChange], *, dry_run: bool) -> Mapping[str, Any]:
    """Returns the document for --json; `after` is null for a call that was not changed."""
    return {"dry_run": dry_run, "calls": changes}
