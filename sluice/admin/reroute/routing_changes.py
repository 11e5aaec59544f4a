"""Accepting and resharding in Postgres: each is one transaction under all queue locks of an entity type."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

from psycopg2.errors import DeadlockDetected, LockNotAvailable, QueryCanceled

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.reroute.acceptance import Acceptance, judge_acceptance
from sluice.admin.reroute.reshard_plan import (
    Resharded,
    is_settled,
    parked_moves,
    plan_reshard,
    require_other_shards,
)
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.admin.rerouting import (
    TopicRouting,
    Unsettled,
    carry_lanes,
    insert_queues,
    lock_routing,
    move_parked,
    raise_epoch,
    read_parked_of,
    read_topic_routing,
    read_unsettled,
    read_watermarks_of,
    restart_topic,
)
from sluice.db.connection import Session
from sluice.db.projections.generations import detach_generations, read_projection_snapshot
from sluice.kafka_io.log_range import LogRange
from sluice.tasks.events.routing import queue_name


def accept_topic(
    session: Session,
    topic: str,
    before: TopicRouting,
    wanted: TopicRouting,
    logs: Mapping[int, LogRange],
    decision: Decision,
) -> tuple[Acceptance, int]:
    """The topic has the wanted id and is read from the start of its logs; with the entity type's new epoch.

    Lanes of the entity type's other topics go on where they are. Raises OperationRefused if the
    topic was changed meanwhile, or a batch holds a queue for too long.
    """
    with _patiently(before.entity), session.transaction():
        shards = lock_routing(session, before.entity)
        if shards is None or read_topic_routing(session, topic) != before:
            raise OperationRefused(f"topic {topic} was changed by somebody else meanwhile: look again")
        # As it is under the locks: a bridge may have gone on with other partitions.
        found = judge_acceptance(
            topic,
            before.entity,
            topic_ids=(before.topic_id, wanted.topic_id),
            watermarks=read_watermarks_of(session, topic),
            logs=logs,
        )
        epoch = raise_epoch(session, before.entity, shards)
        carry_lanes(session, before.entity, without_topic=topic, epoch=epoch)
        restart_topic(session, topic, wanted.topic_id, epoch=epoch, watermarks=found.watermarks())
        # What they hold of the topic was read from another log, and where they are says nothing of this one.
        ended = detach_generations(
            session, f"topic {topic} was accepted: it is read from its log's beginning"
        )
        details = {"epoch": epoch, "ended_generations": ended, **found.document()}
        insert_audits(session, decision, [(topic, as_json(details))])
    return found, epoch


def reshard_entity(
    session: Session, entity: str, shards: int, decision: Decision, *, force: bool
) -> Resharded | Unsettled:
    """The entity type has so many shards; or what is not settled yet, and nothing is changed.

    Raises OperationRefused if the entity type is unknown, if it has that many shards already, or if a batch
    holds a queue for too long.
    """
    with _patiently(entity), session.transaction():
        before = require_other_shards(entity, lock_routing(session, entity), shards)
        synced = read_projection_snapshot(session).synced
        if synced:
            names = ", ".join(f"generation {one.generation} of {one.projection}" for one in synced)
            raise OperationRefused(
                f"{names} is kept up with live, by lanes that end with a re-routing: first run"
                f" `sluice rebuild drop {synced[0].projection}` (or cancel)"
            )
        # Under the locks: a batch may have come between the waiting and here.
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


@contextmanager
def _patiently(entity: str) -> Iterator[None]:
    try:
        yield
    except (LockNotAvailable, QueryCanceled, DeadlockDetected) as error:
        raise OperationRefused(
            f"a queue of entity type {entity} was in somebody's hand for too long: nothing was changed,"
            " try again"
        ) from error
