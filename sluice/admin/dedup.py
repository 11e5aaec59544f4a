"""Changes how repeated events of a topic are recognised, for `sluice dedup`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.operation_wait import NotYet, refused_if_queues_are_held, until_possible
from sluice.admin.pause import topics_paused
from sluice.admin.reshard import advice, refuse_synced, unsettled_text
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.admin.rerouting import (
    Unsettled,
    lock_routing,
    raise_epoch,
    read_topic_routing,
    read_topics_of,
    read_unsettled,
    read_watermarks_of,
)
from sluice.db.connection import Session
from sluice.db.delivery.dedup_modes import change_mode, read_all_modes
from sluice.db.records import DedupMode
from sluice.tasks.apply.topic_modes import effective_mode
from sluice.tasks.fold.registry import Registry


@dataclass(frozen=True)
class DedupChange:
    """The change of a topic's mode. `epoch` is None if the change is only planned."""

    topic: str
    entity: str
    before: str
    dedup: str
    epoch: int | None
    starts: Mapping[int, int]
    """Partition → the offset from which the new mode counts."""


class RecordsInFlight(NotYet):
    """Records of the entity type have no outcome yet."""

    def __init__(self, found: Unsettled) -> None:
        super().__init__(unsettled_text(found._replace(outgoing=0)), advice(found._replace(outgoing=0)))


def plan_dedup(session: Session, registry: Registry, topic: str, dedup: str) -> DedupChange:
    """Returns what the change would do. Raises OperationRefused if it is not possible or not needed."""
    if dedup not in list(DedupMode):
        raise OperationRefused(f"there is no mode {dedup!r:.40}; pass {', '.join(DedupMode)}")
    declared = registry.topics.get(topic)
    routing = read_topic_routing(session, topic)
    if declared is None:
        raise OperationRefused(
            f"topic {topic} is declared by no module; the declared topics are"
            f" {', '.join(sorted(registry.topics))}"
        )
    if routing is None:
        raise OperationRefused(
            f"no bridge has read topic {topic} so far; its first bridge stores the mode that the code"
            " declares"
        )
    before = effective_mode(declared.dedup, read_all_modes(session).get(topic))
    if before == dedup:
        raise OperationRefused(f'topic {topic} has dedup="{dedup}" already')
    if dedup == DedupMode.NATURAL and declared.dedup != dedup:
        raise OperationRefused(
            f'the code declares topic {topic} with dedup="{declared.dedup}", so its handlers are not checked'
            ' for dedup="natural"; declare dedup="natural", deploy this code, then run the command again'
        )
    return DedupChange(topic, routing.entity, before, dedup, None, read_watermarks_of(session, topic))


def change_dedup(
    session: Session,
    plan: DedupChange,
    decision: Decision,
    *,
    patience_seconds: float,
    waiting: Callable[[str], object] = lambda _: None,
    warn: Callable[[str], object] = lambda _: None,
) -> DedupChange:
    """Pauses the topics of the entity type, waits until every record that was read has an outcome,
    changes the mode, and resumes the topics.

    Passes a sentence on the records in flight to `waiting`. If resuming fails, passes a sentence on the
    topics that stay paused to `warn`. Raises OperationRefused after `patience_seconds`; then nothing was
    changed.
    """

    def attempt() -> DedupChange:
        # The locks of all queues are taken only if no record seems to be in flight.
        unsettled = read_unsettled(session, plan.entity)
        if unsettled.lanes:
            raise RecordsInFlight(unsettled)
        found = change_dedup_now(session, plan, decision)
        if isinstance(found, Unsettled):
            raise RecordsInFlight(found)
        return found

    with topics_paused(session, read_topics_of(session, plan.entity), decision, warn=warn):
        return until_possible(attempt, patience_seconds, waiting=waiting)


def change_dedup_now(session: Session, plan: DedupChange, decision: Decision) -> DedupChange | Unsettled:
    """Changes the mode, with a new epoch. If records are in flight, changes nothing and returns them.

    Raises OperationRefused if a generation is kept in sync, the topic was changed meanwhile, or a batch
    holds a queue for too long.
    """
    with refused_if_queues_are_held(plan.entity), session.transaction():
        shards = lock_routing(session, plan.entity)
        stored = read_all_modes(session).get(plan.topic)
        if shards is None or effective_mode(plan.before, stored) != plan.before:
            raise OperationRefused(f"topic {plan.topic} was changed meanwhile; run the command again")
        refuse_synced(session)
        # The records in flight are read under the locks, because a batch may have been committed after the
        # wait. A record above the watermark would be read again, and judged by the new mode.
        unsettled = read_unsettled(session, plan.entity)
        if unsettled.lanes:
            return unsettled
        # A worker reads the modes of each new epoch.
        epoch = raise_epoch(session, plan.entity, shards)
        change_mode(session, plan.topic, plan.dedup)
        starts = read_watermarks_of(session, plan.topic)
        done = DedupChange(plan.topic, plan.entity, plan.before, plan.dedup, epoch, starts)
        insert_audits(session, decision, [(plan.topic, as_json(asdict(done)))])
    return done
