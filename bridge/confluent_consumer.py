"""The consumer on confluent-kafka (librdkafka)."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from bridge.assignment import LogRange
from bridge.consumer import (
    FETCH_MAX_BYTES,
    FETCH_MAX_WAIT_MS,
    FETCH_MIN_BYTES,
    HEARTBEAT_INTERVAL_MS,
    MAX_POLL_INTERVAL_MS,
    MAX_POLL_RECORDS,
    METADATA_MAX_AGE_MS,
    SESSION_TIMEOUT_MS,
    ConsumerBroken,
    LogTruncated,
    TopicFacts,
)
from db.progress import Place
from tasks.wire import Record

REQUEST_TIMEOUT_SECONDS = 5.0
TOPICS_AGE_SECONDS = 5.0  # this client's consumer tells no topic ids; asking takes a round trip

# The partition stands nowhere: seek it again.
_POSITION_LOST = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})


class ConfluentConsumer:
    """See `bridge.consumer.Consumer`."""

    def __init__(
        self, bootstrap_servers: str, *, group: str, instance: str | None, topics: Sequence[str]
    ) -> None:
        """Joins the group with the first polls. Raises ConsumerBroken if the settings are refused."""
        self._topics = tuple(topics)
        self._facts: dict[str, TopicFacts] = {}
        self._facts_until = float("-inf")
        self._changes: set[Place] = set()
        self._ends: dict[Place, int] = {}
        self._paused: set[Place] = set()
        servers = {"bootstrap.servers": bootstrap_servers}
        with _translated():
            self._admin = AdminClient({**servers, "log_level": 2})
            self._consumer = Consumer(
                {
                    **servers,
                    "client.id": "sluice-bridge",
                    "group.id": group,
                    **({} if instance is None else {"group.instance.id": instance}),
                    # The bridge resumes from Postgres; a position that resets itself skips records.
                    "auto.offset.reset": "error",
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "enable.partition.eof": True,
                    "isolation.level": "read_committed",
                    "allow.auto.create.topics": False,
                    "partition.assignment.strategy": "cooperative-sticky",
                    "fetch.min.bytes": FETCH_MIN_BYTES,
                    "fetch.wait.max.ms": FETCH_MAX_WAIT_MS,
                    "fetch.max.bytes": FETCH_MAX_BYTES,
                    # Read ahead of the bridge's own bounds. Where that is full the client waits, by default
                    # for a second: a backlog was read at 12 MB/s instead of 100.
                    "queued.max.messages.kbytes": FETCH_MAX_BYTES // 1024,
                    "fetch.queue.backoff.ms": FETCH_MAX_WAIT_MS,
                    "max.poll.interval.ms": MAX_POLL_INTERVAL_MS,
                    "session.timeout.ms": SESSION_TIMEOUT_MS,
                    "heartbeat.interval.ms": HEARTBEAT_INTERVAL_MS,
                    "topic.metadata.refresh.interval.ms": METADATA_MAX_AGE_MS,
                    "reconnect.backoff.max.ms": 1_000,
                    "log_level": 3,
                }
            )
            self._consumer.subscribe(
                list(self._topics), on_assign=self._note, on_revoke=self._note, on_lost=self._note
            )

    def poll(self, timeout_seconds: float) -> dict[Place, list[Record]]:
        """See Consumer."""
        with _translated():
            messages = self._consumer.consume(MAX_POLL_RECORDS, timeout_seconds)
        polled: dict[Place, list[Record]] = {}
        message: Any
        for message in messages:
            error = message.error()
            if error is not None:
                self._note_error(error, message)
                continue
            place = (message.topic(), message.partition())
            record = Record(
                message.offset(),
                message.timestamp()[1],
                message.key(),
                message.value(),
                message.headers() or [],
            )
            if place in polled:
                polled[place].append(record)
            else:
                polled[place] = [record]
                self._ends.pop(place, None)
        return polled

    def take_changes(self) -> frozenset[Place]:
        """See Consumer."""
        changes, self._changes = frozenset(self._changes), set()
        return changes

    def assignment(self) -> frozenset[Place]:
        """See Consumer."""
        with _translated():
            return frozenset((place.topic, place.partition) for place in self._consumer.assignment())

    def seek(self, place: Place, offset: int) -> None:
        """See Consumer."""
        self._ends.pop(place, None)
        if place not in self.assignment():
            self._changes.add(place)
            return
        # The client's own seek is refused where it has no position at all, and that is where we begin.
        with _translated():
            self._consumer.incremental_unassign([TopicPartition(*place)])
            self._consumer.incremental_assign([TopicPartition(*place, offset)])
            # The pause outlives the assignment.
            self._consumer.resume([TopicPartition(*place)])
        self._paused.discard(place)

    def position(self, place: Place) -> int | None:
        """See Consumer. Known at the end of the log only: the client's own forgets no seek."""
        return self._ends.get(place)

    def pause_exactly(self, places: Iterable[Place]) -> None:
        """See Consumer."""
        wanted = set(places) & self.assignment()
        with _translated():
            if wanted - self._paused:
                self._consumer.pause([TopicPartition(*place) for place in wanted - self._paused])
            if self._paused - wanted:
                self._consumer.resume([TopicPartition(*place) for place in self._paused - wanted])
        self._paused = wanted

    def paused(self) -> frozenset[Place]:
        """See Consumer."""
        return frozenset(self._paused)

    def log_ranges(self, places: Iterable[Place]) -> dict[Place, LogRange]:
        """See Consumer."""
        with _translated():
            return {
                place: LogRange(
                    *self._consumer.get_watermark_offsets(
                        TopicPartition(*place), timeout=REQUEST_TIMEOUT_SECONDS
                    )
                )
                for place in places
            }

    def topics(self) -> Mapping[str, TopicFacts]:
        """See Consumer. As of some seconds ago at most."""
        if time.monotonic() >= self._facts_until:
            self._facts = self._describe()
            self._facts_until = time.monotonic() + TOPICS_AGE_SECONDS
        return self._facts

    def commit(self, watermarks: Mapping[Place, int]) -> None:
        """See Consumer."""
        offsets = [TopicPartition(*place, offset) for place, offset in watermarks.items()]
        if offsets:
            with _translated():
                self._consumer.commit(offsets=offsets, asynchronous=True)

    def close(self) -> None:
        """See Consumer."""
        with _translated():
            self._consumer.close()

    def _note(self, _: Any, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            place = (partition.topic, partition.partition)
            self._changes.add(place)
            self._ends.pop(place, None)
            # An assigned partition is never paused, whatever it was before.
            self._paused.discard(place)

    def _note_error(self, error: KafkaError, message: Any) -> None:
        place = (message.topic(), message.partition())
        if error.code() == KafkaError._PARTITION_EOF:
            self._ends[place] = message.offset()
        elif error.code() in _POSITION_LOST:
            self._changes.add(place)
        elif error.code() == KafkaError._LOG_TRUNCATION:
            raise LogTruncated(f"{place[0]}[{place[1]}]: {error.str()}")
        elif error.fatal():
            raise ConsumerBroken(error.str())

    def _describe(self) -> dict[str, TopicFacts]:
        found = {}
        with _translated():
            futures = self._admin.describe_topics(
                TopicCollection(list(self._topics)), request_timeout=REQUEST_TIMEOUT_SECONDS
            )
        for topic, future in futures.items():
            try:
                description = future.result(REQUEST_TIMEOUT_SECONDS)
            except (KafkaException, TimeoutError) as error:
                code = error.args[0].code() if isinstance(error, KafkaException) else None
                if code != KafkaError.UNKNOWN_TOPIC_OR_PART and topic in self._facts:
                    found[topic] = self._facts[topic]
                continue
            high, low = (
                description.topic_id.get_most_significant_bits(),
                description.topic_id.get_least_significant_bits(),
            )
            # Written as the other client writes it: changing the client is no new topic.
            topic_id = UUID(int=(high % 2**64 << 64) | low % 2**64)
            found[topic] = TopicFacts(str(topic_id), len(description.partitions))
        return found


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (KafkaException, RuntimeError) as error:
        raise ConsumerBroken(f"{type(error).__name__}: {error}") from error
