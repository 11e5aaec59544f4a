"""Reads the offset ranges of logs, the times of records, and single records, without joining a group."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from contextlib import closing
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from sluice.kafka_io.config import (
    ANY_TOPIC,
    BOOTSTRAP_TIMEOUT_MS,
    LOG_LEVEL_CRITICAL,
    RECONNECT_BACKOFF_MAX_MS,
    REQUEST_TIMEOUT_MS,
    build_confluent_admin,
    build_confluent_consumer,
)
from sluice.kafka_io.leader_offsets import known_offset
from sluice.kafka_io.log_range import LogRange, LogRanges
from sluice.kafka_io.partition_reader import (
    UNREADABLE,
    LogIncomplete,
    PartitionReader,
    reader_properties,
)
from sluice.kafka_io.record_types import Record
from sluice.kafka_io.topic_watch import topic_uuid
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place

CONSUME_SECONDS = 0.2
READ_SECONDS = 1.0
POLL_SECONDS = 0.02  # short, because the answer may arrive meanwhile
LOOK_SECONDS = 5.0
# Only one record per partition is needed, so the client fetches little of each.
FETCH_BYTES = 16 * 1024
QUEUED_KIB = 1_024

NO_LEADER = "the partition has no leader"

_START, _END = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
_AWAY = frozenset({KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})
_MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._NOENT})


class LogsUnavailable(Exception):
    """Raised if no broker answered. The message is the reason that the client reported."""


class LogReader:
    """Reads committed records, as the bridge does. Not thread-safe. Call `close` after use."""

    def __init__(
        self,
        access: KafkaAccess,
        share: PartitionShare,
        *,
        request_timeout_ms: int = REQUEST_TIMEOUT_MS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Connects in the background. Partitions of other shares are neither asked for nor returned."""
        self._access = access
        self._share = share
        self._timeout_seconds = request_timeout_ms / 1_000
        self._look_seconds = look_seconds
        self._client_error = ""
        self._is_refused = False
        self._admin = build_confluent_admin(
            access,
            {
                "client.id": "sluice-status",
                "reconnect.backoff.max.ms": RECONNECT_BACKOFF_MAX_MS,
                "log_level": LOG_LEVEL_CRITICAL,
                "error_cb": self._note_error,
            },
        )
        self._consumer: Any = None

    def read_ranges(self, topics: Iterable[str]) -> LogRanges:
        """Returns the offset ranges of the share's partitions, without topics that do not exist.

        The result also lists the partitions and topics that could not be read. Raises LogsUnavailable if no
        broker answered.
        """
        return self._read_ranges(topics, self._share)

    def _read_ranges(self, topics: Iterable[str], share: PartitionShare) -> LogRanges:
        existing: dict[Place, int | None] = {}
        topic_ids, refused = self._describe(sorted(set(topics)), existing)
        counts = Counter(topic for topic, _ in existing)
        leaders = {place: leader for place, leader in existing.items() if share.holds(place[1])}
        unreadable = {place: NO_LEADER for place, leader in leaders.items() if leader is None}

        def read_offsets(places: Iterable[Place], spec: OffsetSpec, isolation: Any) -> dict[Place, int]:
            by_leader: dict[int | None, list[Place]] = {}
            for place in places:
                by_leader.setdefault(leaders[place], []).append(place)
            return self._read_offsets(list(by_leader.values()), spec, isolation, unreadable)

        # The end of the log is read before the end of the committed records. Therefore the latter is lower
        # only if a transaction is open.
        log_ends = read_offsets(leaders.keys() - unreadable.keys(), _END, IsolationLevel.READ_UNCOMMITTED)
        ends = read_offsets(log_ends, _END, IsolationLevel.READ_COMMITTED)
        starts = read_offsets(ends, _START, IsolationLevel.READ_COMMITTED)
        ranges = {place: LogRange(start, ends[place], log_ends[place]) for place, start in starts.items()}
        return LogRanges(ranges, topic_ids, unreadable, refused, counts)

    def read_times(self, offsets: Mapping[Place, int]) -> dict[Place, float]:
        """Returns the Unix time of the first record at or after the offset of each partition.

        Omits partitions whose record was not found in time. If Kafka deleted the record at the offset, the
        first remaining record counts.
        """
        found: dict[Place, float] = {}
        left = set(offsets)
        if not left:
            return found
        if self._consumer is None:
            self._consumer = self._build_consumer()
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in sorted(offsets.items())])
        deadline = time.monotonic() + self._look_seconds
        while left and time.monotonic() < deadline:
            for message in self._consumer.consume(len(left), CONSUME_SECONDS):
                place, error = (message.topic(), message.partition()), message.error()
                if place not in left:
                    continue
                if error is None:
                    found[place] = message.timestamp()[1] / 1_000
                elif error.code() not in UNREADABLE and error.code() != KafkaError._PARTITION_EOF:
                    continue
                left.discard(place)
                self._consumer.incremental_unassign([TopicPartition(*place)])
        self._consumer.unassign()
        return found

    def read_record(self, place: Place, offset: int) -> Record | None:
        """Returns the record at exactly this offset, or None if no record has this offset.

        Reads a partition of any share, because the caller names it.

        Raises LogsUnavailable, PartitionStalled, or RecordUnreadable if the client cannot open the record.
        """
        read = self._read_ranges([place[0]], WHOLE)
        reason = read.unreadable.get(place) or read.unreadable_topics.get(place[0])
        if reason is not None:
            raise LogsUnavailable(f"{place[0]}[{place[1]}]: {reason}")
        log = read.ranges.get(place)
        if log is None or not log.start <= offset < log.end:
            return None
        try:
            with closing(PartitionReader(self._access, place, offset, client_id="sluice-trace")) as reader:
                while reader.read_through < offset:
                    for found in reader.read(READ_SECONDS)[:1]:
                        return found if found.offset == offset else None
        except LogIncomplete:
            pass  # the record was deleted meanwhile
        return None

    def close(self) -> None:
        """Closes the connections."""
        if self._consumer is not None:
            self._consumer.close()

    def _build_consumer(self) -> Any:
        return build_confluent_consumer(
            self._access,
            {
                **reader_properties("sluice-status", reset="earliest"),
                "fetch.message.max.bytes": FETCH_BYTES,
                "queued.max.messages.kbytes": QUEUED_KIB,
            },
        )

    def _note_error(self, error: KafkaError) -> None:
        # The client reports the reason first, and then "1/1 brokers are down", which has less information.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._client_error = error.str()
            self._is_refused = error.code() == KafkaError._AUTHENTICATION

    def _describe(
        self, topics: list[str], leaders: dict[Place, int | None]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Adds the leader of each partition, or None if there is no leader.

        Returns the ids of the topics, and the topics that the broker refused to describe, with the reason.
        """
        topic_ids: dict[str, str] = {}
        refused: dict[str, str] = {}
        # This request checks that a broker answers. Without it, a request for all topics would wait for an
        # absent broker until its own, longer time-out. `describe_cluster` is not used: librdkafka 2.16 aborts
        # the process if the answer lists no broker, as while a broker starts or stops.
        patience = min(self._timeout_seconds, BOOTSTRAP_TIMEOUT_MS / 1_000)
        first = TopicCollection(topics[:1] or [ANY_TOPIC])
        try:
            for future in self._admin.describe_topics(first, request_timeout=patience).values():
                self._await_answer(future, patience)
        except KafkaException as error:
            self._raise_if_away(error)
        if not topics:
            return topic_ids, refused
        asked = self._admin.describe_topics(TopicCollection(topics), request_timeout=self._timeout_seconds)
        for topic, future in asked.items():
            try:
                described = self._result(future)
            except KafkaException as error:
                self._raise_if_away(error)
                if error.args[0].code() not in _MISSING:
                    refused[topic] = error.args[0].str()
                continue
            topic_ids[topic] = topic_uuid(described.topic_id)
            for partition in described.partitions:
                leader = partition.leader
                has_leader = leader is not None and leader.id >= 0
                leaders[topic, partition.id] = leader.id if has_leader else None
        return topic_ids, refused

    def _await_answer(self, asked: "Future[Any]", patience: float) -> None:
        """Waits for the answer. Raises LogsUnavailable at once if the brokers refuse the login."""
        self._is_refused = False
        deadline = time.monotonic() + patience + 1
        while not asked.done():
            self._admin.poll(POLL_SECONDS)  # calls `error_cb`
            if self._is_refused:
                raise LogsUnavailable(self._client_error)
            if time.monotonic() > deadline:
                raise _timed_out()
        asked.result()

    def _raise_if_away(self, error: KafkaException) -> None:
        if error.args[0].code() in _AWAY:
            self._admin.poll(0)  # calls `error_cb`, which stores a better reason
            raise LogsUnavailable(self._client_error or error.args[0].str()) from error

    def _read_offsets(
        self,
        groups: Iterable[Iterable[Place]],
        spec: OffsetSpec,
        isolation: IsolationLevel,
        unreadable: dict[Place, str],
    ) -> dict[Place, int]:
        """Returns the offsets. Adds the partitions without an answer to `unreadable`.

        Sends one request per group. If the leader of one partition is unavailable, librdkafka answers for no
        partition of the same request.
        """
        asked: dict[TopicPartition, Future[Any]] = {}
        for places in groups:
            asked |= self._admin.list_offsets(
                {TopicPartition(*place): spec for place in places},
                isolation_level=isolation,
                request_timeout=self._timeout_seconds,
            )
        found: dict[Place, int] = {}
        for where, future in asked.items():
            place = (where.topic, where.partition)
            try:
                found[place] = known_offset(self._result(future))
            except KafkaException as error:
                if error.args[0].code() not in _MISSING:
                    unreadable[place] = error.args[0].str()
        return found

    def _result(self, future: "Future[Any]") -> Any:
        try:
            # Waits longer than the client, because the client's own time-out error has more information.
            return future.result(self._timeout_seconds + 1)
        except TimeoutError as error:
            raise _timed_out() from error


def _timed_out() -> KafkaException:
    return KafkaException(KafkaError(KafkaError._TIMED_OUT))
