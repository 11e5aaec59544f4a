"""The rules of `sluice doctor` about late events and calls, and events that end their worker. Pure."""

from collections.abc import Iterator, Sequence, Set

from sluice.admin.doctor.facts import LeavingFacts, PostgresFacts
from sluice.admin.doctor.findings import Finding, warning
from sluice.admin.doctor.rules_processes import has_effects_worker, has_relay
from sluice.admin.doctor.rules_retrying import say_duration
from sluice.db.admin.waiting_facts import EventDeath
from sluice.db.records import CallState
from sluice.runtime.celery_options import EFFECTS_QUEUE, RELAY_QUEUE
from sluice.runtime.terminal_text import counted
from sluice.tasks.fold.topic_names import topic_name_flaw


def age_problems(
    postgres: PostgresFacts, missing_topics: Set[str], *, patience_seconds: float
) -> Iterator[Finding]:
    """Yields outgoing events and calls that wait although the processes that send them are alive."""
    leaving = postgres.leaving
    if leaving is None or postgres.refusal is not None or not has_relay(postgres):
        return
    waiting = [
        one
        for one in leaving.outgoing
        if one.free and one.topic not in missing_topics and topic_name_flaw(one.topic) is None
    ]
    oldest = max(waiting, key=lambda one: one.free_seconds, default=None)
    if oldest is not None and oldest.free_seconds >= patience_seconds:
        yield warning(
            f"Outgoing events wait for up to {say_duration(oldest.free_seconds)}:"
            f" {sum(one.free for one in waiting)}, the oldest for topic {oldest.topic}.",
            f"Read the log of the workers on `{RELAY_QUEUE}`: it contains the answer of Kafka.",
        )
    due = leaving.due_calls
    is_late = due.calls and due.seconds >= patience_seconds
    if is_late and leaving.effects_paused is None and has_effects_worker(postgres):
        yield warning(
            f"Calls are due for up to {say_duration(due.seconds)}: {due.calls}.",
            f"Read the log of the workers on `{EFFECTS_QUEUE}`, and start more of them if all are busy.",
        )


def holding_problems(leaving: LeavingFacts) -> Iterator[Finding]:
    """Yields calls that wait because an earlier call of the same entity did not succeed."""
    holding = leaving.holding_calls
    if holding:
        first = holding[0]
        others = f" (and {counted(len(holding) - 1, 'other')})" if len(holding) > 1 else ""
        settle = (
            f', or settle it by `sluice effects settle {first.effect_key} --as failed --reason "…"` (or `--as'
            " succeeded`)"
        )
        yield warning(
            "Calls wait because an earlier call of the same entity did not succeed:"
            f" {sum(c.behind for c in holding)}"
            f" behind {first.effect_key}{others}, which is {first.state}; effect {first.effect} of"
            f" {first.entity}/{first.entity_key}.",
            f"See `sluice effects show {first.effect_key}`; then run `sluice effects retry {first.effect_key}"
            f' --reason "…"`{settle if first.state == CallState.UNCERTAIN else ""}.',
        )


def death_problems(deaths: Sequence[EventDeath]) -> Iterator[Finding]:
    """Yields events whose handlers were running when their worker process ended."""
    if deaths:
        first = deaths[0]
        others = f" (and {counted(len(deaths) - 1, 'other event')})" if len(deaths) > 1 else ""
        times = "once" if first.deaths == 1 else f"{first.deaths} times"
        yield warning(
            f"Event {first.topic}:{first.partition}:{first.offset}{others} ended its worker {times}:"
            f" {first.how}; the last time {say_duration(first.seconds)} ago.",
            "Correct the handler of the event and restart the workers; if no worker runs, start one."
            " After the third time the"
            " event becomes a dead letter.",
        )
