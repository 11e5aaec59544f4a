"""Compares the counters in Postgres with the records in Kafka.

The records are counted by reading them, since the offsets of a log have gaps.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaTimeoutError

from sluice.admin.partition_verdict import (
    LogFacts,
    Verified,
    end_to_count,
    has_outcome,
    judge_partition,
)
from sluice.db.admin.audit import read_audits
from sluice.db.admin.letters import Chosen, count_letters, count_parked
from sluice.db.admin.outbox_admin import read_waiting
from sluice.db.admin.totals import PartitionTotals, read_call_states, read_partition_totals
from sluice.db.connection import Session
from sluice.kafka_io.config import (
    BOOTSTRAP_TIMEOUT_MS,
    REQUEST_TIMEOUT_MS,
    KafkaAccess,
    build_kafka_python_admin,
    build_kafka_python_consumer,
)
from sluice.runtime.place import Place
from sluice.tasks.fold.registry import Registry

POLL_MS = 500
PATIENCE_SECONDS = 30.0  # without a step forward


def verify(
    session: Session,
    bootstrap_servers: str,
    registry: Registry,
    *,
    counted: Callable[[int, int], object] = lambda *_: None,
) -> Verified:
    """Reads each partition from its start and judges its counters. Changes nothing.

    Passes to `counted` how many offsets were read, of how many. Raises KafkaError.
    """
    # Before the log is read: every record with an outcome in these totals is in the log already.
    totals = read_partition_totals(session)
    letters = count_letters(session, Chosen())
    parked, outbox = count_parked(session), read_waiting(session, None)
    calls = read_call_states(session)
    rerouted = {place[0] for place, of in totals.items() if _was_rerouted(session, place[0], of.entity)}
    logs = _read_logs(bootstrap_servers, totals, counted)
    latest = {topic.name for topic in registry.topics.values() if topic.start == "latest"}
    partitions = [
        judge_partition(
            *place, of, logs.get(place), from_the_end=place[0] in latest, rerouted=place[0] in rerouted
        )
        for place, of in totals.items()
    ]
    return Verified(partitions, letters, parked, outbox, calls)


def _was_rerouted(session: Session, topic: str, entity: str) -> bool:
    """Returns whether an operator let records be counted twice, or kept the outcomes of another log."""
    forced = (row.details or {} for row in read_audits(session, verb="reshard", subject=entity, limit=1_000))
    accepted = read_audits(session, verb="accept", subject=topic, limit=1)
    return bool(accepted) or any(details.get("force") for details in forced)


def _read_logs(
    servers: str, totals: Mapping[Place, PartitionTotals], counted: Callable[[int, int], object]
) -> dict[Place, LogFacts]:
    logs: dict[Place, LogFacts] = {}
    passed = total = 0

    def count(offsets: int) -> None:
        nonlocal passed
        passed += offsets
        counted(passed, total)

    with closing(LogCounter(servers, counted=count)) as counter:
        bounds = counter.read_bounds(totals)
        compacted = counter.read_compacted(sorted({topic for topic, _ in bounds}))
        total = sum(max(0, end - start) for start, end in bounds.values())
        for place, (start, end) in bounds.items():
            is_compacted = place[0] in compacted
            logs[place] = counter.count(place, totals[place], start, end, compacted=is_compacted)
    return logs


class LogCounter:
    """A consumer that only counts, at committed records as the bridge sees them. Close it."""

    def __init__(self, bootstrap_servers: str, *, counted: Callable[[int], object] = lambda _: None) -> None:
        """`counted` is called with how many offsets were passed. Raises KafkaError if no broker answers."""
        self._access = KafkaAccess(bootstrap_servers)
        self._counted = counted
        self._consumer = build_kafka_python_consumer(
            self._access,
            client_id="sluice-verify",
            group_id=None,
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )

    def read_bounds(self, totals: Mapping[Place, PartitionTotals]) -> dict[Place, tuple[int, int]]:
        """Place → the offsets between which records with an outcome lie; without places Kafka lacks."""
        there = self._consumer.topics()
        places = [
            TopicPartition(*place)
            for place in sorted(totals)
            if place[0] in there and place[1] in (self._consumer.partitions_for_topic(place[0]) or ())
        ]
        starts, ends = self._consumer.beginning_offsets(places), self._consumer.end_offsets(places)
        return {
            (place.topic, place.partition): (
                starts[place],
                min(ends[place], end_to_count(totals[place.topic, place.partition])),
            )
            for place in places
        }

    def read_compacted(self, topics: Iterable[str]) -> set[str]:
        """Those of the topics whose records are replaced by newer ones."""
        admin = build_kafka_python_admin(
            self._access,
            bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            asked = [
                ConfigResource(ConfigResourceType.TOPIC, name, {"cleanup.policy": None}) for name in topics
            ]
            found = admin.describe_configs(asked, config_filter="all").get("topic", {}) if asked else {}
        finally:
            admin.close()
        return {name for name, config in found.items() if "compact" in config["cleanup.policy"]["value"]}

    def count(
        self, place: Place, totals: PartitionTotals, start: int, end: int, *, compacted: bool
    ) -> LogFacts:
        """Reads one partition from its start. Raises KafkaTimeoutError if it does not go on."""
        partition = TopicPartition(*place)
        self._consumer.assign([partition])
        self._consumer.seek(partition, start)
        records, position, moved_at = 0, start, time.monotonic()
        while position < end:
            for record in self._consumer.poll(timeout_ms=POLL_MS).get(partition, ()):
                records += record.offset < end and has_outcome(totals, record.offset, record.key)
            reached = self._consumer.position(partition)
            if reached > position:
                self._counted(min(reached, end) - position)
                position, moved_at = reached, time.monotonic()
            elif time.monotonic() - moved_at > PATIENCE_SECONDS:
                raise KafkaTimeoutError(f"{place[0]}:{place[1]} was not read beyond {position}")
        return LogFacts(start, records, compacted)

    def close(self) -> None:
        """Ends the connections."""
        self._consumer.close(autocommit=False)
