"""Compares the counters in Postgres with the records in Kafka.

The records are counted by reading them, because the offsets of a log have gaps.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from sluice.admin.partition_verdict import (
    LogFacts,
    Verified,
    end_to_count,
    has_outcome,
    judge_partition,
)
from sluice.admin.rebuild.preflight import compacted
from sluice.db.admin.audit import read_audits
from sluice.db.admin.letters import Chosen, count_letters, count_parked
from sluice.db.admin.outbox_admin import read_waiting
from sluice.db.admin.projection_letters import count_open
from sluice.db.admin.totals import PartitionTotals, read_call_states, read_partition_totals
from sluice.db.connection import Session
from sluice.db.delivery.dedup_modes import read_all_modes
from sluice.db.delivery.skipped_records import read_skipped_ranges
from sluice.db.projections.generations import read_projection_snapshot
from sluice.kafka_io.log_reader import LogReader
from sluice.kafka_io.partition_reader import (
    LogIncomplete,
    PartitionReader,
    PartitionStalled,
    RecordUnreadable,
)
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place
from sluice.runtime.skipped_range import SkippedRange
from sluice.tasks.fold.registry import Registry
from sluice.tasks.retention import read_topic_configs

READ_SECONDS = 0.5


def verify(
    session: Session,
    access: KafkaAccess,
    share: PartitionShare,
    registry: Registry,
    *,
    max_record_bytes: int,
    counted: Callable[[int, int], object] = lambda *_: None,
) -> Verified:
    """Reads each partition from its start and judges its counters. Changes nothing.

    `max_record_bytes` must be the limit that the bridges use, because they choose the queue by a key of
    at most this size. Passes to `counted` how many offsets were read, and their total. Raises
    LogsUnavailable if no broker answers.
    """
    # The totals are read before the log, so every record that they count is already in the log.
    totals = read_partition_totals(session)
    letters = count_letters(session, Chosen())
    parked, outbox = count_parked(session), read_waiting(session, None)
    calls = read_call_states(session)
    rerouted = {place[0] for place, of in totals.items() if _was_rerouted(session, place[0], of.entity)}
    skipped = read_skipped_ranges(session)
    logs = _read_logs(access, share, totals, skipped, max_record_bytes, counted)
    latest = {topic.name for topic in registry.topics.values() if topic.start == "latest"}
    natural = {topic for topic, mode in read_all_modes(session).items() if mode == "natural"}
    partitions = [
        judge_partition(
            *place,
            of,
            logs.get(place),
            from_the_end=place[0] in latest,
            rerouted=place[0] in rerouted,
            natural=place[0] in natural,
        )
        for place, of in totals.items()
    ]
    return Verified(partitions, letters, parked, outbox, calls, count_open(session), _read_stopped(session))


def _read_stopped(session: Session) -> list[str]:
    snapshot = read_projection_snapshot(session)
    return sorted(snapshot.left)


def _was_rerouted(session: Session, topic: str, entity: str) -> bool:
    """Returns True if a command of an operator let records be counted twice, or kept the outcomes
    of another log.
    """
    forced = (row.details or {} for row in read_audits(session, verb="reshard", subject=entity, limit=1_000))
    accepted = read_audits(session, verb="accept", subject=topic, limit=1)
    return bool(accepted) or any(details.get("force") for details in forced)


def _read_logs(
    access: KafkaAccess,
    share: PartitionShare,
    totals: Mapping[Place, PartitionTotals],
    skipped: Mapping[Place, Sequence[SkippedRange]],
    max_record_bytes: int,
    counted: Callable[[int, int], object],
) -> dict[Place, LogFacts]:
    topics = sorted({topic for topic, _ in totals})
    with closing(LogReader(access, share)) as log_reader:
        logs = log_reader.read_ranges(topics)
    compacted_topics = set(compacted(read_topic_configs(access, topics))) if topics else set()
    # A record after this offset has no outcome.
    ends = {
        place: min(log.end, end_to_count(totals[place]))
        for place, log in logs.ranges.items()
        if place in totals
    }
    passed, total = 0, sum(max(0, end - logs.ranges[place].start) for place, end in ends.items())

    def count(offsets: int) -> None:
        nonlocal passed
        passed += offsets
        counted(passed, total)

    facts = {
        place: LogFacts(0, 0, unread=reason)
        for place in totals
        for reason in [logs.unreadable.get(place) or logs.unreadable_topics.get(place[0])]
        if reason is not None
    }
    for place, end in sorted(ends.items()):
        start = logs.ranges[place].start
        reader = PartitionReader(
            access,
            place,
            start,
            skipped=skipped.get(place, ()),
            client_id="sluice-verify",
            max_record_bytes=max_record_bytes,
        )
        with closing(reader):
            found = _count_log(reader, totals[place], start, end, counted=count)
        facts[place] = replace(found, compacted=place[0] in compacted_topics)
    return facts


def _count_log(
    reader: PartitionReader,
    totals: PartitionTotals,
    start: int,
    end: int,
    *,
    counted: Callable[[int], object],
) -> LogFacts:
    """Counts the records of one partition by reading it from its start."""
    records, position = 0, start
    while position < end:
        try:
            found = reader.read(READ_SECONDS)
        except (LogIncomplete, PartitionStalled, RecordUnreadable) as error:
            return LogFacts(start, records, unread=str(error))
        records += sum(
            record.offset < end and has_outcome(totals, record.offset, record.key) for record in found
        )
        reached = min(reader.read_through + 1, end)
        counted(reached - position)
        position = reached
    return LogFacts(start, records)
