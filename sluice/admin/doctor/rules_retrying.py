"""The rule of `sluice doctor` about events that are retried: what holds them up, and what ends it. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

from sluice.admin.doctor.facts import Finding, warning
from sluice.db.admin.retrying import RetryingEvent
from sluice.db.records import RetryKind

MOST_HOLDERS = 5  # findings about other sessions; one session may hold many rows
_QUERY_CHARACTERS = 100


def retrying_problems(events: Sequence[RetryingEvent]) -> Iterator[Finding]:
    """What keeps events from being applied: sessions that hold what they need, and what takes too long."""
    held: dict[str, list[RetryingEvent]] = {}
    others: dict[str, list[RetryingEvent]] = {}
    for one in events:
        there = [blocker for blocker in one.blockers if blocker["is_there"]]
        if one.kind == RetryKind.ROW_HELD and there:
            held.setdefault("; ".join(_holder(blocker) for blocker in there), []).append(one)
        else:
            others.setdefault(one.kind, []).append(one)
    for holders, group in list(held.items())[:MOST_HOLDERS]:
        pids = sorted({blocker["pid"] for one in group for blocker in one.blockers if blocker["is_there"]})
        yield warning(f"{_named(group)} for what another session holds: {holders}.", _ending(pids))
    for kind, group in sorted(others.items()):
        yield warning(f"{_named(group)} and {_KINDS[kind]} Lately: {group[0].error[:200]}", _ADVICE[kind])


_KINDS = {
    RetryKind.ROW_HELD.value: "needs what another session held at the newest attempt.",
    RetryKind.TIMED_OUT.value: "takes longer than a statement may.",
    RetryKind.UNAVAILABLE.value: "is refused by the server for a reason that passes.",
}
_LIST = "`sluice dlq ls --state retrying` lists such events; they are retried by themselves."
_ADVICE = {
    RetryKind.ROW_HELD.value: f"{_LIST} If it stays, look at `sluice dlq show`, and for open transactions.",
    RetryKind.TIMED_OUT.value: f"{_LIST} Look for a slow trigger, a missing index or an event of great size.",
    RetryKind.UNAVAILABLE.value: f"{_LIST} The log of Postgres has the cause.",
}


def _named(group: Sequence[RetryingEvent]) -> str:
    first = group[0]
    name = f"Dead letter {first.letter_id}" if first.key is None else f"Entity {first.entity}/{first.key}"
    more = "" if len(group) == 1 else f" (and {len(group) - 1} others)"
    return f"{name}{more} waits since {_age(first.seconds)}"


def _holder(blocker: dict[str, Any]) -> str:
    if blocker["pid"] == 0:
        return "a prepared transaction"
    parts = [f"pid {blocker['pid']}"]
    if blocker.get("application"):
        parts.append(f"application {blocker['application']}")
    if blocker.get("user"):
        parts.append(f"user {blocker['user']}")
    if blocker.get("seconds") is not None:
        parts.append(f"{blocker.get('state') or 'in transaction'} since {_age(blocker['seconds'])}")
    if blocker.get("query"):
        parts.append(f"query {' '.join(blocker['query'].split())[:_QUERY_CHARACTERS]}")
    return ", ".join(parts)


def _ending(pids: Sequence[int]) -> str:
    backends = [f"`SELECT pg_terminate_backend({pid})`" for pid in pids if pid != 0]
    prepared = ["see pg_prepared_xacts"] if 0 in pids else []
    return f"End the transaction there, or by {', '.join([*backends, *prepared])}; the event is applied then."


def _age(seconds: float) -> str:
    """The age in whole minutes, below two of them in seconds."""
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{max(0.0, seconds):.0f} s"
