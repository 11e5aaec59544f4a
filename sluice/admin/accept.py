"""Accepts that a topic was re-created or lost records, or that partitions were added to it."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from sluice.admin.accept_reasons import find_reasons, is_only_raised
from sluice.admin.continued_lanes import check_starts, clear_letters, find_lost_ends, may_continue
from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.operation_wait import refused_if_queues_are_held
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.admin.rerouting import (
    TopicRouting,
    carry_lanes,
    lock_routing,
    raise_epoch,
    read_topic_routing,
    read_watermarks_of,
    restart_topic,
)
from sluice.db.apply.erasures import lower_log_ends
from sluice.db.connection import Session
from sluice.db.delivery.partition_reads import clear_stops, read_partition_reads
from sluice.db.delivery.progress import insert_partitions, read_assignments
from sluice.db.projections.generations import SyncedGeneration, detach_generations, read_projection_snapshot
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.log_reader import LogReader
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import PartitionShare


@dataclass(frozen=True)
class PartitionChange:
    """The effects of accepting a topic on one partition. Numbers of records are upper bounds,
    because offsets have gaps.

    `before` is None for a new partition, `after` is None for a missing partition. `lost` is None
    if the number cannot be known, because the log of the old topic no longer exists.
    """

    partition: int
    before: int | None
    after: int | None
    lost: int | None
    """Records that will never be applied."""
    again: int
    """Records that were perhaps applied, and are read again."""
    log_end: int | None
    """The end of the log; None for a missing partition."""


@dataclass(frozen=True)
class Acceptance:
    """The effects of accepting a topic, for all its partitions."""

    topic: str
    entity: str
    topic_id_before: str
    topic_id: str
    partitions: tuple[PartitionChange, ...]
    continues: bool = False
    """True if the lanes of the topic keep their applied offsets, because only these show what was applied."""

    @property
    def recreated(self) -> bool:
        """Returns True if Kafka now has another topic with the same name."""
        return self.topic_id != self.topic_id_before

    def watermarks(self) -> dict[int, int]:
        """Returns partition → the offset from which it is read."""
        return {one.partition: one.after for one in self.partitions if one.after is not None}

    def document(self) -> dict[str, Any]:
        """Returns the document for --json and for `audit`."""
        return {
            "topic": self.topic,
            "entity": self.entity,
            "topic_id_before": self.topic_id_before,
            "topic_id": self.topic_id,
            "continues": self.continues,
            "partitions": list(self.partitions),
        }


def judge_acceptance(
    topic: str,
    entity: str,
    *,
    topic_ids: tuple[str, str],
    watermarks: Mapping[int, int],
    logs: Mapping[int, LogRange],
    adds_only: bool = False,
    starts: Mapping[int, int] | None = None,
) -> Acceptance:
    """Returns the effects of accepting a topic. `topic_ids` are the ids in Postgres and in Kafka. Pure.

    `adds_only`: only the new partitions change. `starts`: the lanes continue, except those of these
    partitions, which are read from these offsets on.
    """
    before, now = topic_ids
    changes = tuple(
        _change(number, watermarks.get(number), logs.get(number), recreated=before != now)
        if starts is None
        else _continue(number, watermarks.get(number), logs.get(number), starts.get(number))
        for number in sorted({*watermarks, *logs})
        if not adds_only or number not in watermarks
    )
    return Acceptance(topic, entity, before, now, changes, starts is not None)


def _change(number: int, before: int | None, log: LogRange | None, *, recreated: bool) -> PartitionChange:
    if log is None:
        return PartitionChange(number, before, None, None, 0, None)
    if before is None:
        return PartitionChange(number, None, log.start, 0, 0, log.end)
    if recreated:
        return PartitionChange(number, before, log.start, None, 0, log.end)
    lost = max(0, log.start - before)
    again = max(0, min(before, log.end) - log.start)
    return PartitionChange(number, before, log.start, lost, again, log.end)


def _continue(number: int, before: int | None, log: LogRange | None, start: int | None) -> PartitionChange:
    if log is None or before is None:
        return _change(number, before, log, recreated=False)
    after = max(before, log.start) if start is None else start
    return PartitionChange(number, before, after, max(0, after - before), 0, log.end)


class AcceptPlan(NamedTuple):
    """The effects of accepting a topic, and the facts from which they were computed."""

    before: TopicRouting
    wanted: TopicRouting
    logs: Mapping[int, LogRange]
    acceptance: Acceptance
    failing: tuple[SyncedGeneration, ...]
    """Generations that are kept in sync with the live generation, and that accepting marks as failed."""
    reasons: tuple[str, ...]
    """Why bridges do not read the topic; empty if there is nothing to accept."""
    adds_only: bool
    """True if added partitions are the only reason. The other partitions then stay as they are."""


def plan_accept(
    session: Session,
    access: KafkaAccess,
    share: PartitionShare,
    topic: str,
    given: Mapping[int, int] = MappingProxyType({}),
) -> AcceptPlan:
    """Reads Postgres and Kafka. `given` are the offsets of --from.

    Raises OperationRefused if one of the two does not have the topic, the share does not divide its
    partitions, or an offset is missing or not possible.
    """
    before = read_topic_routing(session, topic)
    if before is None:
        raise OperationRefused(f"no bridge has read topic {topic} so far: there is nothing to accept")
    # In the same order as the bridge: lanes before the ends of the logs.
    watermarks = read_watermarks_of(session, topic)
    watched = read_assignments(session, [(topic, number) for number in watermarks])
    topic_id, logs = read_topic(access, share, topic)
    added = read_assignments(session, [(topic, number) for number in logs.keys() - watermarks.keys()])
    assignments = {**watched, **added}
    stopped = [one for one in read_partition_reads(session) if one.topic == topic]
    adds_only = is_only_raised(topic, topic_id, assignments, logs, stopped, share)
    continues = not adds_only and may_continue(session, topic, before, topic_id, given)
    if continues:
        check_starts(topic, watched, logs, given)
    acceptance = judge_acceptance(
        topic,
        before.entity,
        topic_ids=(before.topic_id, topic_id),
        watermarks=watermarks,
        logs=logs,
        adds_only=adds_only,
        starts=given if continues else None,
    )
    reasons = tuple(find_reasons(topic, topic_id, assignments, logs, stopped, share))
    failing = () if adds_only else tuple(read_projection_snapshot(session).synced)
    wanted = TopicRouting(topic_id, before.entity)
    return AcceptPlan(before, wanted, logs, acceptance, failing, reasons, adds_only)


def read_topic(access: KafkaAccess, share: PartitionShare, topic: str) -> tuple[str, dict[int, LogRange]]:
    """Returns a topic's id and the log ranges of the share's partitions. Raises OperationRefused.

    The topic must exist, and the share must divide its partitions.
    """
    with closing(LogReader(access, share)) as reader:
        logs = reader.read_ranges([topic])
    if topic in logs.partitions and (flaw := share.flaw(topic, logs.partitions[topic])):
        raise OperationRefused(str(flaw))
    if why := logs.unreadable_topics.get(topic):
        raise OperationRefused(f"Kafka does not describe topic {topic} ({why}): grant the right to read it")
    if topic not in logs.topic_ids:
        raise OperationRefused(
            f"Kafka has no topic {topic}: create it first, or remove it from the handlers"
            " (and check that SLUICE_KAFKA_BOOTSTRAP_SERVERS names the right cluster)"
        )
    unread = [f"partition {number}: {why}" for (_, number), why in sorted(logs.unreadable.items())]
    if unread:
        raise OperationRefused(f"topic {topic} cannot be read completely ({'; '.join(unread)}): try again")
    return logs.topic_ids[topic], {number: found for (_, number), found in logs.ranges.items()}


def accept_partitions(
    session: Session, topic: str, before: TopicRouting, found: Acceptance, decision: Decision
) -> None:
    """Registers the new partitions of a topic, which are read from offset 0. The others stay as they are.

    Idempotent. Raises OperationRefused if the topic was changed meanwhile.
    """
    with refused_if_queues_are_held(before.entity), session.transaction():
        if lock_routing(session, before.entity) is None or read_topic_routing(session, topic) != before:
            raise OperationRefused(f"topic {topic} was changed meanwhile; run the command again")
        insert_partitions(session, topic, dict.fromkeys(found.watermarks(), 0))
        clear_stops(session, topic)
        insert_audits(session, decision, [(topic, as_json(found.document()))])


def accept_topic(
    session: Session,
    topic: str,
    before: TopicRouting,
    wanted: TopicRouting,
    logs: Mapping[int, LogRange],
    decision: Decision,
    given: Mapping[int, int] = MappingProxyType({}),
) -> tuple[Acceptance, int]:
    """Stores the topic's id, and lets bridges read its logs from the start. Also returns the new epoch.

    Lanes of the entity type's other topics continue at their offsets. So do the lanes of a topic with
    dedup="position", except in the partitions of `given`: these are read from the given offsets on. Raises
    OperationRefused if the topic was changed meanwhile, or a batch holds a queue for too long.
    """
    with refused_if_queues_are_held(before.entity), session.transaction():
        shards = lock_routing(session, before.entity)
        if shards is None or read_topic_routing(session, topic) != before:
            raise OperationRefused(f"topic {topic} was changed meanwhile; run the command again")
        # Computed again under the locks, because a bridge may have continued with other partitions.
        continues = may_continue(session, topic, before, wanted.topic_id, given)
        found = judge_acceptance(
            topic,
            before.entity,
            topic_ids=(before.topic_id, wanted.topic_id),
            watermarks=read_watermarks_of(session, topic),
            logs=logs,
            starts=given if continues else None,
        )
        lost_ends = find_lost_ends(read_assignments(session, [(topic, number) for number in logs]), logs)
        epoch = raise_epoch(session, before.entity, shards)
        kept = logs.keys() - given.keys() if continues else ()
        carry_lanes(session, before.entity, accepted=topic, epoch=epoch, partitions=kept)
        watermarks = found.watermarks()
        modes_from = given if continues else None
        restart_topic(
            session, topic, wanted.topic_id, epoch=epoch, watermarks=watermarks, modes_from=modes_from
        )
        if given:
            clear_letters(session, topic, wanted.topic_id, given)
        lower_log_ends(session, wanted.topic_id, {number: log.end for number, log in logs.items()})
        # The offsets of generations belong to the old log, and have no meaning in the new log.
        ended = detach_generations(
            session, f"topic {topic} was accepted: its offsets may belong to other records"
        )
        clear_stops(session, topic)
        details = {
            "epoch": epoch,
            "ended_generations": ended,
            "lost_ends": lost_ends,
            "from": dict(given),
            **found.document(),
        }
        insert_audits(session, decision, [(topic, as_json(details))])
    return found, epoch
