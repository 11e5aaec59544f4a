"""Counts the records of a log that have an outcome, by reading them: offsets are not dense."""

import time
from collections.abc import Callable, Iterable, Mapping

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaTimeoutError

from sluice.admin.verify.partition_verdict import LogFacts, end_to_count, has_outcome
from sluice.db.admin.totals import PartitionTotals
from sluice.kafka_io.config import (
    BOOTSTRAP_TIMEOUT_MS,
    REQUEST_TIMEOUT_MS,
    KafkaAccess,
    build_kafka_python_admin,
    build_kafka_python_consumer,
)
from sluice.runtime.place import Place

POLL_MS = 500
PATIENCE_SECONDS = 30.0  # without a step forward


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
