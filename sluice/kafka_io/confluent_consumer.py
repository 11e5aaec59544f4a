"""The consumer on confluent-kafka (librdkafka)."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeAlias

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from sluice.kafka_io.config import (
    FETCH_MAX_BYTES,
    FETCH_MAX_WAIT_MS,
    FETCH_MIN_BYTES,
    HEARTBEAT_INTERVAL_MS,
    LOG_LEVEL_CRITICAL,
    MAX_POLL_INTERVAL_MS,
    MAX_POLL_RECORDS,
    METADATA_MAX_AGE_MS,
    RECONNECT_BACKOFF_MAX_MS,
    SESSION_TIMEOUT_MS,
    SOCKET_TIMEOUT_MS,
    KafkaAccess,
    build_confluent_admin,
    build_confluent_consumer,
)
from sluice.kafka_io.consumer import ConsumerBroken, TopicFacts
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import Record
from sluice.kafka_io.topic_watch import TopicWatch
from sluice.runtime.place import Place

REQUEST_TIMEOUT_SECONDS = 5.0

# librdkafka reads on in a topic created anew, at its old position, and says nothing. But its fetch from the
# deleted one fails first, and the next comes so much later. Facts younger than that, when records are handed
# over, were asked for after the failure: they tell of the new topic, or of none. Of a partition that was
# paused no fetch failed: what comes first after a pause or a seek is handed over with facts asked for anew.
FETCH_ERROR_BACKOFF_MS = 1_000
FACTS_AGE_SECONDS = 0.8

# confluent-kafka 2.16 polls a fatal error once, as a message of this code whose `fatal()` is False. A commit
# of a fenced member fails with the cause itself. Afterwards every poll returns nothing, without an error.
_FATAL = frozenset({KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID})
# The partition stands nowhere: seek it again.
_POSITION_LOST = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
_START_AND_END = (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
# It is not there, or none of those asked about is.
_NO_PARTITION = frozenset(
    {KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._NOENT}
)

_Answers: TypeAlias = dict[TopicPartition, Future[Any]]


class ConfluentConsumer:
    """See `sluice.kafka_io.consumer.Consumer`."""

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        group: str,
        instance: str | None,
        topics: Sequence[str],
        commit_metadata: Callable[[], str] = str,
    ) -> None:
        """Joins the group with the first polls. Raises ConsumerBroken if no broker answers.

        `commit_metadata` returns what goes with the offsets of each commit.
        """
        self._commit_metadata = commit_metadata
        self._topics = tuple(topics)
        self._doubted_at = float("-inf")  # facts from before may be of another topic
        self._doubted: set[Place] = set()  # what comes of them next may be of another topic
        self._changes: set[Place] = set()
        self._truncated: dict[Place, str] = {}
        self._ends: dict[Place, int] = {}
        self._paused: set[Place] = set()
        self._fatal_error = ""
        access = KafkaAccess(bootstrap_servers)
        both: dict[str, Any] = {
            "topic.metadata.refresh.interval.ms": METADATA_MAX_AGE_MS,
            "socket.timeout.ms": SOCKET_TIMEOUT_MS,
            "reconnect.backoff.max.ms": RECONNECT_BACKOFF_MAX_MS,
            "log_level": LOG_LEVEL_CRITICAL,
        }
        with _translated():
            self._admin = build_confluent_admin(access, both)
            self._watch = TopicWatch(self._admin, self._topics)
            # Before anything is known, a topic that is gone and a broker that is away look the same.
            self._watch.ask_now()
            self._consumer = build_confluent_consumer(
                access,
                {
                    **both,
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
                    "fetch.error.backoff.ms": FETCH_ERROR_BACKOFF_MS,
                    # Read ahead of the bridge's own bounds. Where that is full the client waits, by default
                    # for a second: a backlog was read at 12 MB/s instead of 100.
                    "queued.max.messages.kbytes": FETCH_MAX_BYTES // 1024,
                    "fetch.queue.backoff.ms": FETCH_MAX_WAIT_MS,
                    "max.poll.interval.ms": MAX_POLL_INTERVAL_MS,
                    "session.timeout.ms": SESSION_TIMEOUT_MS,
                    "heartbeat.interval.ms": HEARTBEAT_INTERVAL_MS,
                    "error_cb": self._note_if_fatal,
                    "on_commit": self._note_if_fatal,
                },
            )
            self._consumer.subscribe(
                list(self._topics), on_assign=self._note_assigned, on_revoke=self._note, on_lost=self._note
            )

    def poll(self, timeout_seconds: float) -> dict[Place, list[Record]]:
        """See Consumer. Raises ConsumerBroken at every poll after a fatal error."""
        with _translated():
            # Calls the callbacks for errors and for finished commits as well.
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
        if self._fatal_error:
            raise ConsumerBroken(self._fatal_error)
        self._look_at_topics(polled.keys())
        return polled

    def take_changes(self) -> frozenset[Place]:
        """See Consumer."""
        changes, self._changes = frozenset(self._changes), set()
        return changes

    def take_truncated(self) -> Mapping[Place, str]:
        """See Consumer."""
        truncated, self._truncated = self._truncated, {}
        return truncated

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
        self._doubted.add(place)

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
        self._doubted |= self._paused - wanted
        self._paused = wanted

    def paused(self) -> frozenset[Place]:
        """See Consumer."""
        return frozenset(self._paused)

    def log_ranges(self, places: Iterable[Place]) -> dict[Place, LogRange]:
        """See Consumer."""
        wanted = [TopicPartition(*place) for place in places]
        if not wanted:
            return {}
        with _translated():
            asked = [self._ask_offsets(wanted, spec) for spec in _START_AND_END]
            starts, ends = map(_offsets, asked)
        return {place: LogRange(starts[place], ends[place]) for place in starts.keys() & ends.keys()}

    def topics(self) -> Mapping[str, TopicFacts]:
        """See Consumer. Asked after the newest assignment, and a moment ago if records came."""
        return self._watch.facts

    def commit(self, watermarks: Mapping[Place, int]) -> None:
        """See Consumer."""
        metadata = self._commit_metadata()
        offsets = [TopicPartition(*place, offset, metadata) for place, offset in watermarks.items()]
        if offsets:
            with _translated():
                self._consumer.commit(offsets=offsets, asynchronous=True)

    def close(self) -> None:
        """See Consumer."""
        with _translated():
            self._consumer.close()

    def _note_assigned(self, consumer: Any, partitions: Iterable[TopicPartition]) -> None:
        self._note(consumer, partitions)
        self._doubted_at = time.monotonic()

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
            self._doubted_at = time.monotonic()
        elif error.code() == KafkaError._LOG_TRUNCATION:
            self._truncated[place] = error.str()
        else:
            self._note_if_fatal(error)

    def _note_if_fatal(self, error: KafkaError | None, _committed: object = None) -> None:
        if error is not None and (error.fatal() or error.code() in _FATAL):
            self._fatal_error = self._fatal_error or error.str()

    def _look_at_topics(self, polled: AbstractSet[Place]) -> None:
        now = time.monotonic()
        if polled:
            age = FACTS_AGE_SECONDS if self._doubted.isdisjoint(polled) else 0.0
            self._doubted_at = max(self._doubted_at, now - age)
            self._doubted -= polled
        with _translated():
            self._watch.look()
            if self._watch.known_at < self._doubted_at:
                self._watch.ask_now()

    def _ask_offsets(self, wanted: Iterable[TopicPartition], spec: OffsetSpec) -> _Answers:
        return self._admin.list_offsets(
            dict.fromkeys(wanted, spec),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=REQUEST_TIMEOUT_SECONDS,
        )


def _offsets(answers: _Answers) -> dict[Place, int]:
    """Without partitions that are not there. Raises KafkaException or TimeoutError."""
    found = {}
    for place, future in answers.items():
        try:
            found[place.topic, place.partition] = future.result(REQUEST_TIMEOUT_SECONDS + 1).offset
        except KafkaException as error:
            if error.args[0].code() not in _NO_PARTITION:
                raise
    return found


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (KafkaException, RuntimeError, TimeoutError) as error:
        raise ConsumerBroken(f"{type(error).__name__}: {error}") from error
