"""What Kafka says of its logs: where they begin and end, and how old a record is. No group is joined."""

import time
from collections.abc import Iterable, Mapping

from kafka import TopicPartition

from sluice.kafka_io.config import (
    BOOTSTRAP_TIMEOUT_MS,
    REQUEST_TIMEOUT_MS,
    KafkaAccess,
    build_kafka_python_consumer,
)
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place

POLL_MS = 200
# One record per partition: a look, not a download.
FETCH_BYTES = 16 * 1024
LOOK_SECONDS = 5.0


class LogReader:
    """A consumer that only looks, at committed records as the bridge sees them. Close it."""

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        bootstrap_timeout_ms: int = BOOTSTRAP_TIMEOUT_MS,
        request_timeout_ms: int = REQUEST_TIMEOUT_MS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Raises KafkaError if no broker answers."""
        self._look_seconds = look_seconds
        self._consumer = build_kafka_python_consumer(
            KafkaAccess(bootstrap_servers),
            client_id="sluice-status",
            group_id=None,
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            isolation_level="read_committed",
            # Where records were deleted before they were applied, the first one left is the oldest.
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=FETCH_BYTES,
            bootstrap_timeout_ms=bootstrap_timeout_ms,
            request_timeout_ms=request_timeout_ms,
        )

    def read_ranges(self, topics: Iterable[str]) -> dict[Place, LogRange]:
        """All partitions of those topics that exist."""
        there = self._consumer.topics()
        places = [
            TopicPartition(topic, number)
            for topic in topics
            if topic in there
            for number in sorted(self._consumer.partitions_for_topic(topic) or ())
        ]
        starts = self._consumer.beginning_offsets(places)
        ends = self._consumer.end_offsets(places)
        return {(place.topic, place.partition): LogRange(starts[place], ends[place]) for place in places}

    def read_times(self, offsets: Mapping[Place, int]) -> dict[Place, float]:
        """Place → Unix time of its first record from the offset on; those not found in time are missing."""
        found: dict[Place, float] = {}
        placed: set[TopicPartition] = set()
        deadline = time.monotonic() + self._look_seconds
        while (left := offsets.keys() - found.keys()) and time.monotonic() < deadline:
            wanted = [TopicPartition(*place) for place in sorted(left)]
            if set(wanted) != placed:
                # Not compared with what is assigned: that may be of an earlier call, and read by now.
                placed = set(wanted)
                self._consumer.assign(wanted)
                for place in wanted:
                    self._consumer.seek(place, offsets[place.topic, place.partition])
            for place, records in self._consumer.poll(timeout_ms=POLL_MS).items():
                found[place.topic, place.partition] = records[0].timestamp / 1000
        return found

    def read_record(self, place: Place, offset: int) -> Record | None:
        """The record at this very offset; None: there is none, or it does not come in time."""
        wanted = TopicPartition(*place)
        if wanted.partition not in (self._consumer.partitions_for_topic(wanted.topic) or ()):
            return None
        start, end = self._consumer.beginning_offsets([wanted]), self._consumer.end_offsets([wanted])
        if not start[wanted] <= offset < end[wanted]:
            return None
        self._consumer.assign([wanted])
        self._consumer.seek(wanted, offset)
        deadline = time.monotonic() + self._look_seconds
        while time.monotonic() < deadline:
            for found in self._consumer.poll(timeout_ms=POLL_MS).get(wanted, ()):
                if found.offset != offset:
                    return None
                headers = list(found.headers or ())
                return Record(found.offset, found.timestamp, found.key, found.value, headers)
        return None

    def close(self) -> None:
        """Ends the connections."""
        self._consumer.close(autocommit=False)
