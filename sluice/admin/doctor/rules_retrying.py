"""The rules of `sluice doctor` about retried events and stuck queues: the cause and the cure. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sluice.admin.doctor.facts import StuckQueue
from sluice.admin.doctor.findings import Finding, warning
from sluice.db.admin.retrying import RetryingEvent
from sluice.db.records import RetryKind
from sluice.runtime.terminal_text import counted

MOST_HOLDERS = 5  # maximum number of findings about other sessions; one session may lock many rows
_QUERY_CHARACTERS = 100
_HIDDEN = "<insufficient privilege>"
"""The text that Postgres shows instead of a query that the role may not read."""


def retrying_problems(events: Sequence[RetryingEvent]) -> Iterator[Finding]:
    """Yields why events cannot be applied: locks of other sessions, time limits, refusals of the server."""
    held: dict[str, list[RetryingEvent]] = {}
    others: dict[tuple[str, str], list[RetryingEvent]] = {}
    for one in events:
        there = [blocker for blocker in one.blockers if blocker["is_there"]]
        if one.kind == RetryKind.ROW_HELD and there:
            held.setdefault("; ".join(describe_holder(blocker) for blocker in there), []).append(one)
        else:
            others.setdefault((one.kind, one.error.partition(":")[0]), []).append(one)
    for holders, group in list(held.items())[:MOST_HOLDERS]:
        pids = sorted({blocker["pid"] for one in group for blocker in one.blockers if blocker["is_there"]})
        yield warning(f"{_named(group)} for a lock of another session: {holders}.", _ending(group, pids))
    for (kind, _), group in sorted(others.items()):
        problem = f"{_named(group)}: {_KINDS[kind]}. Newest error: {group[0].error[:200]}"
        yield warning(problem, f"{_LIST} {_ADVICE[kind]}")


_KINDS = {
    RetryKind.ROW_HELD.value: "at the newest attempt another session held a lock that the event needs",
    RetryKind.TIMED_OUT.value: "the event takes longer than the time limit of a statement",
    RetryKind.UNAVAILABLE.value: "the server refuses the event for a temporary reason",
}
_LIST = "`sluice dlq ls --state retrying` lists such events; Sluice retries them."
_ADVICE = {
    RetryKind.ROW_HELD.value: "If an event remains in the list, look for open transactions in"
    " pg_stat_activity.",
    RetryKind.TIMED_OUT.value: "Look for a slow trigger, a missing index or a very large event.",
    RetryKind.UNAVAILABLE.value: "The log of Postgres has the cause.",
}


def _named(group: Sequence[RetryingEvent]) -> str:
    first = group[0]
    name = f"Dead letter {first.letter_id}" if first.key is None else f"Entity {first.entity}/{first.key}"
    more = "" if len(group) == 1 else f" (and {counted(len(group) - 1, 'other')})"
    return f"{name}{more} has waited for {say_duration(first.seconds)}"


def describe_holder(blocker: Mapping[str, Any]) -> str:
    """Returns what is known of a session that blocks others."""
    if blocker["pid"] == 0:
        return "a prepared transaction"
    parts = [f"pid {blocker['pid']}"]
    if blocker.get("application"):
        parts.append(f"application {blocker['application']}")
    if blocker.get("user"):
        parts.append(f"user {blocker['user']}")
    if blocker.get("seconds") is not None:
        parts.append(f"{blocker.get('state') or 'in transaction'} for {say_duration(blocker['seconds'])}")
    if _is_visible(blocker):
        parts.append(f"query {' '.join(blocker['query'].split())[:_QUERY_CHARACTERS]}")
    return ", ".join(parts)


def _is_visible(blocker: Mapping[str, Any]) -> bool:
    return bool(blocker.get("query")) and blocker["query"] != _HIDDEN


def _ending(group: Sequence[RetryingEvent], pids: Sequence[int]) -> str:
    ending = _end_transactions([blocker for one in group for blocker in one.blockers], pids)
    return f"{ending} The event is then applied by itself."


def _end_transactions(blockers: Sequence[Mapping[str, Any]], pids: Sequence[int]) -> str:
    backends = ", ".join(f"`SELECT pg_terminate_backend({pid})`" for pid in pids if pid != 0)
    said = [f"End its transaction, or run {backends}."] if backends else []
    if 0 in pids:
        said.append("Commit the prepared transaction or roll it back; pg_prepared_xacts lists it.")
    if any(blocker.get("query") == _HIDDEN for blocker in blockers):
        said.append("The role of this command needs pg_read_all_stats to see the query.")
    return " ".join(said)


def stuck_problems(stuck: Sequence[StuckQueue]) -> Iterator[Finding]:
    """Yields queues that have messages and commit no batch."""
    for one in stuck:
        problem = (
            f"Queue {one.queue} has {counted(one.messages, 'message')}, and no batch of it was committed in"
            f" {one.seconds:.0f} s"
        )
        blockers = [blocker._asdict() for blocker in one.blockers]
        if blockers:
            holders = "; ".join(map(describe_holder, blockers))
            pids = sorted({blocker.pid for blocker in one.blockers})
            yield warning(
                f"{problem}; workers wait for a lock of another session: {holders}.",
                f"{_end_transactions(blockers, pids)} The queue then continues by itself.",
            )
        else:
            yield warning(
                f"{problem}.",
                "`sluice workers` shows the worker that serves the queue. Read the log of the worker,"
                " and restart the worker if it does not answer.",
            )


def say_duration(seconds: float) -> str:
    """Returns the time in whole minutes, or below two minutes in seconds."""
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{max(0.0, seconds):.0f} s"
