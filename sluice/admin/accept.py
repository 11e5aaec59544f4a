"""Accepts that a topic was re-created or lost records, or that partitions were added to it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.operation_wait import refused_if_queues_are_held
from sluice.bridge.start_conditions import LoudStop, StopKind, judge_assignment
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
from sluice.db.delivery.partition_reads import PartitionRead, clear_stops, read_partition_reads
from sluice.db.delivery.progress import Assignment, insert_partitions, read_assignments
from sluice.db.projections.generations import SyncedGeneration, detach_generations, read_projection_snapshot
from sluice.db.records import ProblemKind
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.log_reader import LogReader
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place


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
) -> Acceptance:
    """Returns the effects of accepting a topic. `topic_ids` are the ids in Postgres and in Kafka. Pure.

    `adds_only`: only the new partitions change.
    """
    before, now = topic_ids
    changes = tuple(
        _change(number, watermarks.get(number), logs.get(number), recreated=before != now)
        for number in sorted({*watermarks, *logs})
        if not adds_only or number not in watermarks
    )
    return Acceptance(topic, entity, before, now, changes)


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


def plan_accept(session: Session, access: KafkaAccess, share: PartitionShare, topic: str) -> AcceptPlan:
    """Reads Postgres and Kafka.

    Raises OperationRefused if one of the two does not have the topic, or the share does not divide its
    partitions.
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
    acceptance = judge_acceptance(
        topic,
        before.entity,
        topic_ids=(before.topic_id, topic_id),
        watermarks=watermarks,
        logs=logs,
        adds_only=adds_only,
    )
    reasons = tuple(find_reasons(topic, topic_id, assignments, logs, stopped, share))
    failing = () if adds_only else tuple(read_projection_snapshot(session).synced)
    wanted = TopicRouting(topic_id, before.entity)
    return AcceptPlan(before, wanted, logs, acceptance, failing, reasons, adds_only)


def is_only_raised(
    topic: str,
    topic_id: str,
    assignments: Mapping[Place, Assignment],
    logs: Mapping[int, LogRange],
    reads: Iterable[PartitionRead],
    share: PartitionShare,
) -> bool:
    """Returns True if bridges refuse the topic only because partitions were added. Pure."""
    if {number for _, number in assignments} - logs.keys():
        return False
    stops = [
        verdict
        for (_, number), one in assignments.items()
        for verdict in [
            judge_assignment(topic, number, one, topic_id=topic_id, log=logs[number], share=share)
        ]
        if isinstance(verdict, LoudStop)
    ]
    explained = {stop.message for stop in stops if stop.kind is StopKind.RAISED}
    reported = {one.detail for one in reads if one.problem is ProblemKind.STOPPED and one.detail}
    return bool(stops) and all(stop.kind is StopKind.RAISED for stop in stops) and reported <= explained


def find_lost_ends(assignments: Mapping[Place, Assignment], logs: Mapping[int, LogRange]) -> list[int]:
    """Returns the partitions whose log ends below an applied offset: another record will get this
    offset. Pure.
    """
    return [
        number
        for (_, number), one in sorted(assignments.items())
        if max([(one.watermark or 0) - 1, *one.applied.values()]) >= logs[number].end
    ]


def find_reasons(
    topic: str,
    topic_id: str,
    assignments: Mapping[Place, Assignment],
    logs: Mapping[int, LogRange],
    reads: Iterable[PartitionRead],
    share: PartitionShare = WHOLE,
) -> Iterator[str]:
    """Yields the reasons why bridges cannot safely continue: by the rules of a bridge, and as
    bridges reported. Pure.
    """
    reported = {one.detail for one in reads if one.problem is ProblemKind.STOPPED and one.detail}
    for (_, number), assignment in sorted(assignments.items()):
        if (log := logs.get(number)) is None:
            yield f"{topic}[{number}] does not exist any more: the topic has fewer partitions than before"
            continue
        verdict = judge_assignment(topic, number, assignment, topic_id=topic_id, log=log, share=share)
        if isinstance(verdict, LoudStop) and verdict.message not in reported:
            yield verdict.message
    yield from sorted(reported)


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
) -> tuple[Acceptance, int]:
    """Stores the topic's id, and lets bridges read its logs from the start. Also returns the new epoch.

    Lanes of the entity type's other topics continue at their offsets. Raises OperationRefused if the
    topic was changed meanwhile, or a batch holds a queue for too long.
    """
    with refused_if_queues_are_held(before.entity), session.transaction():
        shards = lock_routing(session, before.entity)
        if shards is None or read_topic_routing(session, topic) != before:
            raise OperationRefused(f"topic {topic} was changed meanwhile; run the command again")
        # Computed again under the locks, because a bridge may have continued with other partitions.
        found = judge_acceptance(
            topic,
            before.entity,
            topic_ids=(before.topic_id, wanted.topic_id),
            watermarks=read_watermarks_of(session, topic),
            logs=logs,
        )
        lost_ends = find_lost_ends(read_assignments(session, [(topic, number) for number in logs]), logs)
        epoch = raise_epoch(session, before.entity, shards)
        carry_lanes(session, before.entity, without_topic=topic, epoch=epoch)
        restart_topic(session, topic, wanted.topic_id, epoch=epoch, watermarks=found.watermarks())
        lower_log_ends(session, wanted.topic_id, {number: log.end for number, log in logs.items()})
        # The offsets of generations belong to the old log, and have no meaning in the new log.
        ended = detach_generations(
            session, f"topic {topic} was accepted: it is read from its log's beginning"
        )
        clear_stops(session, topic)
        details = {"epoch": epoch, "ended_generations": ended, "lost_ends": lost_ends, **found.document()}
        insert_audits(session, decision, [(topic, as_json(details))])
    return found, epoch
