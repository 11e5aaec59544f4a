"""Pauses and resumes topics (a switch in Postgres), entities (parked by hand), calls and halted queues."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.admin.queue_admin import ListedQueue, lock_listed_queue, resume_queue
from sluice.db.admin.rerouting import read_topic_routing
from sluice.db.apply.dead_letters import load_parked, park_entities
from sluice.db.apply.guard import lock_queue
from sluice.db.apply.retries import delete_retries, is_retried
from sluice.db.connection import Session
from sluice.db.delivery.progress import read_routing
from sluice.db.delivery.switches import (
    TOPIC_PAUSED,
    clear_switch,
    read_paused_topics,
    read_switch,
    set_switch,
)
from sluice.db.sending.calls import EFFECTS_PAUSED
from sluice.tasks.events.routing import queue_name, shard_of
from sluice.tasks.fold.registry import Registry
from sluice.tasks.redrive import Redriver


def pause_topics(session: Session, topics: Sequence[str], decision: Decision) -> list[str]:
    """Stops bridges from reading these topics, within 0.1 s. Returns the topics whose state changed."""
    with session.transaction():
        fresh = [
            topic
            for topic in topics
            if set_switch(session, TOPIC_PAUSED + topic, actor=decision.actor, reason=decision.reason)
        ]
        insert_audits(session, decision, [(f"topic {topic}", '{"paused": true}') for topic in fresh])
    return fresh


def resume_topics(session: Session, topics: Sequence[str], decision: Decision) -> list[str]:
    """Lets bridges read these topics again. Returns the topics whose state changed."""
    with session.transaction():
        fresh = [topic for topic in topics if clear_switch(session, TOPIC_PAUSED + topic)]
        insert_audits(session, decision, [(f"topic {topic}", '{"paused": false}') for topic in fresh])
    return fresh


def require_known_topic(session: Session, registry: Registry, topic: str) -> None:
    """Raises OperationRefused if no module declares the topic and no bridge has ever read it."""
    if topic not in registry.topics and read_topic_routing(session, topic) is None:
        raise OperationRefused(
            f"topic {topic} is declared by no module of SLUICE_HANDLERS, and was never read"
        )


def why_paused(session: Session, topic: str) -> str | None:
    """Returns the reason, None if the topic is not paused."""
    return read_switch(session, TOPIC_PAUSED + topic)


@contextmanager
def topics_paused(
    session: Session,
    topics: Sequence[str],
    decision: Decision,
    *,
    warn: Callable[[str], object] = lambda _: None,
) -> Iterator[None]:
    """Pauses these topics within the block. Afterwards resumes the topics that were not paused
    before. If this fails, passes a sentence to `warn`, because the topics then stay paused.
    """
    before = read_paused_topics(session)
    ours = [topic for topic in topics if topic not in before]
    try:
        # Within the `try`, so that a pause is also undone if an interrupt hides its result.
        pause_topics(session, ours, decision)
        yield
    finally:
        try:
            resume_topics(session, ours, decision)
        except Exception:
            resume = "; ".join(f'`sluice resume --topic {topic} --reason "…"`' for topic in ours)
            warn(f"still paused: {', '.join(ours)}; run {resume}")
            raise


@dataclass(frozen=True)
class Resumed:
    """The result of resuming an entity."""

    unparked: bool
    outcomes: dict[str, int]
    blocked_by: str | None
    """Why the first event became a dead letter, if it did. The other events then keep waiting."""


def park_by_hand(session: Session, entity: str, key: str, decision: Decision, *, dry_run: bool) -> bool:
    """Parks an entity: its events wait. Returns True if the state changed. Raises OperationRefused."""
    with session.transaction():
        before = read_routing(session, entity)
        if before is None:
            raise OperationRefused(f"there is no entity type {entity}")
        queue = queue_name(entity, shard_of(key.encode(), before[0]))
        if not lock_queue(session, queue):
            raise OperationRefused(f"queue {queue} has no row: run `sluice init`")
        if read_routing(session, entity) != before:
            raise OperationRefused(f"entity type {entity} was re-routed during this command: try again")
        # A parked entity keeps the reason of its first dead letter. Retries of its events end,
        # because the entity now waits for the operator.
        fresh = not load_parked(session, entity, [key]) or is_retried(session, entity, key)
        if fresh and not dry_run:
            delete_retries(session, entity, key)
            park_entities(session, entity, queue, [(key, f"by hand, {decision.actor}: {decision.reason}")])
            insert_audits(session, decision, [(f"{entity} {key}", '{"paused": true}')])
    return fresh


def resume_entity(session: Session, redriver: Redriver, entity: str, key: str, decision: Decision) -> Resumed:
    """Applies waiting events in order until one fails. Raises OperationRefused if the entity is
    not parked.
    """
    if not load_parked(session, entity, [key]):
        raise OperationRefused(f"{entity} {key} is not paused")
    with session.transaction():
        insert_audits(session, decision, [(f"{entity} {key}", '{"paused": false}')])
    outcomes: dict[str, int] = {}
    while True:
        step = redriver.redrive_once(entity, key)
        for outcome, count in step.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        # No event was applied and the entity was not unparked, because another command redrives it
        # now or redrove it before.
        if step.unparked or step.blocked_by is not None or not step.outcomes:
            return Resumed(step.unparked, outcomes, step.blocked_by)


def pause_calls(session: Session, decision: Decision, *, dry_run: bool) -> bool:
    """Stops all calls of all effects. Returns True if that changed the state, or with `dry_run` would."""
    if dry_run:
        return read_switch(session, EFFECTS_PAUSED) is None
    with session.transaction():
        changed = set_switch(session, EFFECTS_PAUSED, actor=decision.actor, reason=decision.reason)
        insert_audits(session, decision, [("all effects", "{}")] if changed else [])
    return changed


def resume_calls(session: Session, decision: Decision, *, dry_run: bool) -> bool:
    """Resumes all calls. Returns True if that changed the state, or with `dry_run` would."""
    if dry_run:
        return read_switch(session, EFFECTS_PAUSED) is not None
    with session.transaction():
        changed = clear_switch(session, EFFECTS_PAUSED)
        insert_audits(session, decision, [("all effects", "{}")] if changed else [])
    return changed


def resume_halted(
    session: Session, queue: str, accept_deaths: int, decision: Decision, *, dry_run: bool
) -> ListedQueue:
    """Clears the halt of a queue, and allows so many further dead letters.

    Returns the former state of the queue. Raises OperationRefused if the queue does not exist.
    """
    with session.transaction():
        before = lock_listed_queue(session, queue)
        if before is None:
            raise OperationRefused(f"there is no queue {queue}; `sluice queue ls` lists the queues")
        if not dry_run:
            resume_queue(session, queue, accept_deaths)
            details = {"halted_reason": before.halted_reason, "accepted_deaths": accept_deaths}
            insert_audits(session, decision, [(queue, as_json(details))])
    return before
