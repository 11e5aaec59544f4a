"""Parking an entity by hand, and applying what waited since then."""

from dataclasses import dataclass

from db.audit import Decision, insert_audits
from db.guard import lock_queue
from db.parking import load_parked, park_entities
from db.progress import read_routing
from db.session import Session
from ops.decisions import NotDone
from tasks.redrive import Redriver
from tasks.routing import queue_name, shard_of


@dataclass(frozen=True)
class Resumed:
    """What resuming an entity came to."""

    unparked: bool
    outcomes: dict[str, int]
    blocked_by: str | None
    """Why the one at its head died, if it did: the rest waits on."""


def park_by_hand(session: Session, entity: str, key: str, decision: Decision, *, dry_run: bool) -> bool:
    """What comes of this entity waits from now on; whether that is news. Raises NotDone."""
    with session.transaction():
        before = read_routing(session, entity)
        if before is None:
            raise NotDone(f"there is no entity type {entity}")
        queue = queue_name(entity, shard_of(key.encode(), before[0]))
        if lock_queue(session, queue) is None:
            raise NotDone(f"queue {queue} has no row: run `sluice init`")
        if read_routing(session, entity) != before:
            raise NotDone(f"entity type {entity} was re-routed meanwhile: try again")
        # One that is parked keeps the reason of the death at its head.
        fresh = not load_parked(session, entity, [key])
        if fresh and not dry_run:
            park_entities(session, entity, queue, [(key, f"by hand, {decision.actor}: {decision.reason}")])
            insert_audits(session, decision, [(f"{entity} {key}", '{"paused": true}')])
    return fresh


def resume_entity(session: Session, redriver: Redriver, entity: str, key: str, decision: Decision) -> Resumed:
    """What waits is applied, in order, until nothing does or one dies. Raises NotDone if it is not parked."""
    if not load_parked(session, entity, [key]):
        raise NotDone(f"{entity} {key} is not paused")
    with session.transaction():
        insert_audits(session, decision, [(f"{entity} {key}", '{"paused": false}')])
    outcomes: dict[str, int] = {}
    while True:
        step = redriver.redrive_once(entity, key)
        for outcome, count in step.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        # Nothing tried and nothing unparked: somebody else redrives it, or did.
        if step.unparked or step.blocked_by is not None or not step.outcomes:
            return Resumed(step.unparked, outcomes, step.blocked_by)
