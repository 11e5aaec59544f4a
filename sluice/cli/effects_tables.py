"""What the commands of `sluice effects` print: counts, rows, what became of calls. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from sluice.admin.effects import CallChange
from sluice.cli.printing import say_age, table_of
from sluice.db.admin.call_admin import CallConflict, ListedCall
from sluice.tasks.effects.call_states import CallState


def count_documents(counts: Iterable[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """(effect, state, calls) as JSON objects."""
    return [{"effect": effect, "state": state, "calls": calls} for effect, state, calls in counts]


def count_table(counts: Sequence[tuple[str, str, int]]) -> Table:
    """Per effect, a column for each state that occurs."""
    by_effect: dict[str, dict[str, int]] = {}
    for effect, state, calls in counts:
        by_effect.setdefault(effect, {})[state] = calls
    states = [state.value for state in CallState if any(state.value in row for row in by_effect.values())]
    return table_of(
        ("effect", *states),
        ((effect, *(row.get(state, 0) for state in states)) for effect, row in by_effect.items()),
    )


def call_table(calls: Iterable[ListedCall]) -> Table:
    """Per call: its key, whose it is, how far it is, and what went wrong last."""
    return table_of(
        ("key", "effect", "entity", "state", "attempt", "age", "error"),
        (
            (
                one.effect_key,
                one.effect,
                one.entity if one.entity_key is None else f"{one.entity}/{one.entity_key}",
                one.state,
                one.attempt,
                say_age(one.age_seconds),
                one.error,
            )
            for one in calls
        ),
    )


def conflict_table(conflicts: Iterable[CallConflict]) -> Table:
    """Per conflict: the key, what was asked for and not done, and what counts."""
    return table_of(
        ("id", "key", "not called with", "called with", "state"),
        ((one.id, one.effect_key, one.args, one.made_args, one.state) for one in conflicts),
    )


def change_lines(changes: Iterable[CallChange], *, dry_run: bool) -> list[str]:
    """What became of each call, or would."""
    would = "would become " if dry_run else ""
    return [
        f"{one.effect_key}: {one.before or 'not there'}"
        + (f" → {would}{one.after}" if one.after else ", left as it is")
        + f": {one.said}"
        for one in changes
    ]


def change_document(changes: Sequence[CallChange], *, dry_run: bool) -> Mapping[str, Any]:
    """For --json; `after` is null where a call was left as it was."""
    return {"dry_run": dry_run, "calls": changes}
