"""Changes the number of queues of an entity type, for `sluice reshard`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.operation_wait import NotYet, refused_if_queues_are_held, until_possible
from sluice.admin.pause import topics_paused
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.admin.rerouting import (
    Unsettled,
    insert_queues,
    lock_routing,
    move_parked,
    raise_epoch,
    read_parked_of,
    read_topics_of,
    read_unsettled,
)
from sluice.db.connection import Session
from sluice.db.delivery.dedup_modes import read_modes
from sluice.db.delivery.progress import read_routing
from sluice.db.projections.generations import read_projection_snapshot
from sluice.db.records import DedupMode
from sluice.runtime.terminal_text import counted, plural
from sluice.tasks.events.routing import queue_name, shard_of


@dataclass(frozen=True)
class Resharded:
    """The result of a re-routing: new queues, queues no longer used, moved entities."""

    entity: str
    shards_before: int
    shards: int
    epoch: int | None
    new_queues: tuple[str, ...]
    unused_queues: tuple[str, ...]
    moved: int
    """Parked entities that moved to another queue."""


def require_other_shards(entity: str, before: int | None, shards: int) -> int:
    """Returns the current shard count. Raises OperationRefused if the entity type is unknown, or
    already has `shards` shards.
    """
    if before is None:
        raise OperationRefused(
            f"there is no entity type {entity}: `sluice init` creates the entity types that the handlers"
            " declare"
        )
    if before == shards:
        raise OperationRefused(f"entity type {entity} has {counted(shards, 'shard')} already")
    return before


def plan_reshard(entity: str, before: int, shards: int, epoch: int | None, moved: int) -> Resharded:
    """Returns the result of a re-routing; `epoch` is None if it is only planned."""
    added, unused = range(before, shards), range(shards, before)
    return Resharded(
        entity,
        before,
        shards,
        epoch,
        tuple(queue_name(entity, shard) for shard in added),
        tuple(queue_name(entity, shard) for shard in unused),
        moved,
    )


def parked_moves(parked: Mapping[str, str], entity: str, shards: int) -> dict[str, str]:
    """Returns key → its queue with this number of shards, for parked entities that are now in
    another queue.
    """
    wanted = {key: queue_name(entity, shard_of(key.encode(), shards)) for key in parked}
    return {key: queue for key, queue in wanted.items() if queue != parked[key]}


def is_settled(found: Unsettled) -> bool:
    """Returns True if every record that was read has its outcome, and no outgoing event waits."""
    return not found.lanes and not found.outgoing


def unsettled_text(found: Unsettled) -> str:
    """Returns a few words on the records and events that are not settled."""
    said = (
        [f"{counted(found.lanes, 'lane has records', 'lanes have records')} in flight"] if found.lanes else []
    )
    if found.outgoing:
        said.append(f"{counted(found.outgoing, 'outgoing event waits', 'outgoing events wait')}")
    return " and ".join(said) or "everything is settled"


def advice(found: Unsettled) -> str:
    """Returns what to check if records and events do not become settled."""
    said = []
    if found.halted:
        said.append(
            f"{counted(found.halted, 'queue')} of the entity type {plural(found.halted, 'is', 'are')} halted"
            " (`sluice status` shows why)"
        )
    elif found.lanes:
        said.append("records in flight become settled while a bridge runs and every queue has a worker")
    if found.refused:
        said.append(
            f"{counted(found.refused, 'outgoing event is', 'outgoing events are')} refused"
            " (`sluice outbox ls --refused`)"
        )
    elif found.outgoing:
        said.append("outgoing events are sent while beat and a worker on relay,maintenance run")
    return "; ".join(said)


class ReshardPlan(NamedTuple):
    """What resharding would change, and the records and outgoing events that are not settled now."""

    change: Resharded
    unsettled: Unsettled


def read_reshard_plan(session: Session, entity: str, shards: int) -> ReshardPlan:
    """Reads Postgres. Raises OperationRefused if the entity type is unknown or already has this
    number of shards.
    """
    routing = read_routing(session, entity)
    before = require_other_shards(entity, routing[0] if routing else None, shards)
    moved = len(parked_moves(read_parked_of(session, entity), entity, shards))
    return ReshardPlan(plan_reshard(entity, before, shards, None, moved), read_unsettled(session, entity))


class NotSettled(NotYet):
    """Records or outgoing events of the entity type are not settled yet."""

    def __init__(self, found: Unsettled) -> None:
        super().__init__(
            unsettled_text(found), f'{advice(found)}. Or pass --force, except with dedup="position"'
        )


def reshard(
    session: Session,
    entity: str,
    shards: int,
    decision: Decision,
    *,
    force: bool,
    patience_seconds: float,
    waiting: Callable[[str], object] = lambda _: None,
    warn: Callable[[str], object] = lambda _: None,
) -> Resharded:
    """Pauses the topics of the entity type, waits until all records and events are settled,
    re-routes, and resumes the topics.

    Passes to `waiting` what is not settled. Passes to `warn` which topics stay paused if resuming fails.
    Raises OperationRefused after `patience_seconds`; then nothing was changed.
    """

    if force:
        refuse_force(session, entity)

    def attempt() -> Resharded:
        # The locks of all queues are taken only if the entity type seems settled.
        unsettled = read_unsettled(session, entity)
        if not force and not is_settled(unsettled):
            raise NotSettled(unsettled)
        found = reshard_entity(session, entity, shards, decision, force=force)
        if isinstance(found, Unsettled):
            raise NotSettled(found)
        return found

    with topics_paused(session, read_topics_of(session, entity), decision, warn=warn):
        return until_possible(attempt, patience_seconds, waiting=waiting)


def refuse_synced(session: Session) -> None:
    """Raises OperationRefused if a generation is kept in sync: its lanes would end with the epoch."""
    synced = read_projection_snapshot(session).synced
    if synced:
        names = ", ".join(f"generation {one.generation} of {one.projection}" for one in synced)
        first = synced[0].projection
        raise OperationRefused(
            f"{names} is kept in sync with live, and its lanes would end with a re-routing: first run"
            f' `sluice rebuild drop {first} --reason "…"` (or cancel), or `resume` it if it is stopped'
        )


def refuse_force(session: Session, entity: str) -> None:
    """Raises OperationRefused if records of the entity type would be applied again with --force."""
    found = read_modes(session, entity)
    modes = found.modes if found else {}
    topics = sorted(topic for topic, mode in modes.items() if mode == DedupMode.POSITION)
    if topics:
        raise OperationRefused(
            f"--force is refused for entity type {entity}, because records in flight of"
            f' {plural(len(topics), "topic", "topics")} {", ".join(topics)} (dedup="position") would be'
            " applied a second time; run the command without --force: it waits until these records have"
            " outcomes"
        )


def reshard_entity(
    session: Session, entity: str, shards: int, decision: Decision, *, force: bool
) -> Resharded | Unsettled:
    """Changes the shard count. If records or events are not settled, changes nothing and returns them.

    Raises OperationRefused if the entity type is unknown, if it has that many shards already, or if a batch
    holds a queue for too long.
    """
    with refused_if_queues_are_held(entity), session.transaction():
        before = require_other_shards(entity, lock_routing(session, entity), shards)
        refuse_synced(session)
        if force:
            refuse_force(session, entity)
        # Checked again under the locks, because a batch may have been committed after the wait.
        unsettled = read_unsettled(session, entity)
        if not force and not is_settled(unsettled):
            return unsettled
        insert_queues(session, entity, [queue_name(entity, shard) for shard in range(shards)])
        epoch = raise_epoch(session, entity, shards)
        moves = parked_moves(read_parked_of(session, entity), entity, shards)
        move_parked(session, entity, moves)
        done = plan_reshard(entity, before, shards, epoch, len(moves))
        details = asdict(done) | {"force": force, "unsettled": unsettled._asdict()}
        insert_audits(session, decision, [(entity, as_json(details))])
    return done
