"""The consumer on confluent-kafka (librdkafka)."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from sluice.kafka_io.bounded_record import record_of
from sluice.kafka_io.config import (
    GATHER_SECONDS,
    MAX_POLL_RECORDS,
    build_confluent_admin,
    build_confluent_consumer,
)
from sluice.kafka_io.confluent_properties import CONNECTION_PROPERTIES, CONSUMER_PROPERTIES
from sluice.kafka_io.consumer import BrokersAway, ConsumerBroken, TopicFacts
from sluice.kafka_io.kafka_errors import AWAY_CODES, ClientError, ErrorAction, judge_error
from sluice.kafka_io.leader_offsets import LeaderOffsets, client_error
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import Record
from sluice.kafka_io.shared_assignment import SharedAssignment, assignment_strategy
from sluice.kafka_io.topic_watch import TopicWatch
from sluice.runtime.backoff import Backoff
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place

# The longest pause between requests for the facts of topics while Kafka does not answer. Each such request
# blocks the loop until its time-out.
ASKING_SECONDS = 30.0
ANSWER_AGE_SECONDS = 15.0
MORE = MAX_POLL_RECORDS - 1  # records of a poll beside the first
# The client delivers the partitions of one answer one after the other, within about this time.
BURST_SECONDS = 0.002

# Facts that are at most this old belong to the topic of the returned records: see FETCH_ERROR_BACKOFF_MS. A
# paused partition had no failed fetch, so new facts are requested for its first records after a pause or a
# seek.
FACTS_AGE_SECONDS = 0.8


class ConfluentConsumer:
    """See `sluice.kafka_io.consumer.Consumer`."""

    def __init__(
        self,
        access: KafkaAccess,
        *,
        group: str,
        instance: str | None,
        topics: Sequence[str],
        share: PartitionShare,
        commit_metadata: Callable[[], str] = str,
        max_record_bytes: int | None = None,
    ) -> None:
        """Joins the group with the first polls. Raises ConsumerBroken if no broker answers.

        `commit_metadata` returns the metadata that is stored with the offsets of each commit. Records of more
        than `max_record_bytes` are returned without their value, see `bounded_record`.
        """
        self._commit_metadata = commit_metadata
        self._max_record_bytes = max_record_bytes
        self._topics = tuple(topics)
        # Only for a share of the partitions. Otherwise the client's own assignment is used.
        self._shared = None if share.is_whole else SharedAssignment(share)
        self._doubted_at = float("-inf")  # facts from before this time may be of an earlier topic
        self._doubted: set[Place] = set()  # partitions whose next records may be of another topic
        self._changes: set[Place] = set()
        self._truncated: dict[Place, str] = {}
        self._ends: dict[Place, int] = {}
        self._paused: set[Place] = set()
        self._assigned: frozenset[Place] | None = None  # only the callbacks of a rebalance change it
        # The client reports a fatal error one time; after that, every poll of the client returns nothing.
        self._fatal_error = ""
        self._errors: list[ClientError] = []
        self._readable: set[Place] = set()
        self._asking = Backoff(max_seconds=ASKING_SECONDS)
        self._polled_at = float("-inf")
        with _translated():
            admin = build_confluent_admin(access, CONNECTION_PROPERTIES)
            self._watch = TopicWatch(admin, self._topics, share)
            self._offsets = LeaderOffsets(admin, self._errors.append)
            # Until a broker answers, a deleted topic and an unavailable broker cannot be distinguished.
            self._watch.ask_now()
            self._consumer = build_confluent_consumer(
                access,
                {
                    **CONNECTION_PROPERTIES,
                    "client.id": "sluice-bridge",
                    "group.id": group,
                    **({} if instance is None else {"group.instance.id": instance}),
                    **CONSUMER_PROPERTIES,
                    "partition.assignment.strategy": assignment_strategy(share),
                    "error_cb": self._note_client_error,
                    "on_commit": self._note_committed,
                },
            )
            self._consumer.subscribe(
                list(self._topics),
                on_assign=self._note_assigned,
                on_revoke=self._note_revoked,
                on_lost=self._note_revoked,
            )

    def poll(self, timeout_seconds: float) -> dict[Place, list[Record]]:
        """See Consumer. Raises ConsumerBroken at every poll after a fatal error."""
        with _translated():
            if self._shared is not None:
                self._shared.apply(self._consumer, self._paused)
            # `consume` waits for its whole time-out. Both calls also run the callbacks of errors and commits.
            first = self._consumer.poll(timeout_seconds)
            messages = [] if first is None else [first, *self._consumer.consume(MORE, self._gather_seconds())]
            if messages:
                self._polled_at = time.monotonic()
        polled: dict[Place, list[Record]] = {}
        message: Any
        for message in messages:
            error = message.error()
            if error is not None:
                self._note_message_error(error, message)
                continue
            place = (message.topic(), message.partition())
            record = record_of(message, self._max_record_bytes)
            if place not in polled:
                polled[place] = []
                self._ends.pop(place, None)
            polled[place].append(record)
        self._readable |= polled.keys()
        if self._shared is not None:
            for place, records in polled.items():
                self._shared.note_polled(place, records[-1].offset)
        if self._fatal_error:
            raise ConsumerBroken(self._fatal_error)
        if self._look_at_topics(polled.keys()):
            return polled
        # Without the facts of their topics, these records may be of another topic, so they are read again.
        self._changes |= polled.keys()
        return {}

    def _gather_seconds(self) -> float:
        return max(BURST_SECONDS, self._polled_at + GATHER_SECONDS - time.monotonic())

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
        if self._shared is not None:
            return self._shared.places
        if self._assigned is None:
            with _translated():
                self._assigned = frozenset((one.topic, one.partition) for one in self._consumer.assignment())
        return self._assigned

    def has_partitions(self) -> bool:
        """See Consumer."""
        return bool(self.assignment()) if self._shared is None else self._shared.is_dealt

    def seek(self, place: Place, offset: int) -> None:
        """See Consumer."""
        self._ends.pop(place, None)
        if place not in self.assignment():
            self._changes.add(place)
            return
        if self._shared is not None:
            self._shared.seek(place, offset)
            self._paused.discard(place)
            self._doubted.add(place)
            return
        # The client's own `seek` fails if the partition has no position, as directly after an assignment.
        with _translated():
            self._consumer.incremental_unassign([TopicPartition(*place)])
            self._consumer.incremental_assign([TopicPartition(*place, offset)])
            # If the partition was paused, it is still paused after it was assigned again.
            self._consumer.resume([TopicPartition(*place)])
        self._paused.discard(place)
        self._doubted.add(place)

    def position(self, place: Place) -> int | None:
        """See Consumer. Known only at the end of the log: the client's own position ignores a seek."""
        return self._ends.get(place)

    def pause_exactly(self, places: Iterable[Place]) -> None:
        """See Consumer."""
        wanted = set(places) & self.assignment()
        with _translated():
            if pausing := self._fetched(wanted - self._paused):
                self._consumer.pause(pausing)
            if resuming := self._fetched(self._paused - wanted):
                self._consumer.resume(resuming)
        self._doubted |= self._paused - wanted
        self._paused = wanted

    def _fetched(self, places: Iterable[Place]) -> list[TopicPartition]:
        if self._shared is not None:
            return self._shared.fetched(places)
        return [TopicPartition(*place) for place in places]

    def paused(self) -> frozenset[Place]:
        """See Consumer."""
        return frozenset(self._paused)

    def log_ranges(self, places: Iterable[Place]) -> dict[Place, LogRange]:
        """See Consumer."""
        with _translated():
            return self._offsets.measure(places, self._watch.leaders)

    def topics(self) -> Mapping[str, TopicFacts]:
        """See Consumer. The facts are at most a second old if records were polled."""
        return self._watch.facts

    def topic_errors(self) -> Mapping[str, ClientError]:
        """See Consumer."""
        return self._watch.errors

    def brokers_answer(self) -> bool:
        """See Consumer."""
        return time.monotonic() - self._watch.known_at < ANSWER_AGE_SECONDS

    def take_readable(self) -> frozenset[Place]:
        """See Consumer."""
        readable, self._readable = frozenset(self._readable), set()
        return readable

    def take_errors(self) -> Sequence[ClientError]:
        """See Consumer."""
        errors = list(self._errors)
        self._errors.clear()
        return errors

    def commit(self, watermarks: Mapping[Place, int]) -> None:
        """See Consumer."""
        metadata = self._commit_metadata()
        offsets = [TopicPartition(*place, offset, metadata) for place, offset in watermarks.items()]
        if offsets:
            with _translated():
                self._consumer.commit(offsets=offsets, asynchronous=True)

    def close(self) -> None:
        """See Consumer."""
        self._watch.close()
        with _translated():
            self._consumer.close()

    def _note_assigned(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        self._note(partitions)
        if self._shared is not None:
            self._shared.take(consumer, partitions)
        self._doubted_at = time.monotonic()

    def _note_revoked(self, _: Any, partitions: Sequence[TopicPartition]) -> None:
        self._note(partitions)
        if self._shared is not None:
            self._shared.drop()

    def _note(self, partitions: Iterable[TopicPartition]) -> None:
        self._assigned = None
        for partition in partitions:
            place = (partition.topic, partition.partition)
            self._changes.add(place)
            self._ends.pop(place, None)
            # A newly assigned partition is not paused, even if it was paused during an earlier assignment.
            self._paused.discard(place)

    def _note_message_error(self, error: KafkaError, message: Any) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        place = None if topic is None or partition is None or partition < 0 else (topic, partition)
        self._note_error(
            judge_error(
                error.name(),
                error.str(),
                fatal=error.fatal(),
                place=place,
                topic=topic,
                offset=offset if offset is not None and offset >= 0 else None,
            )
        )

    def _note_client_error(self, error: KafkaError) -> None:
        self._note_error(judge_error(error.name(), error.str(), fatal=error.fatal()))

    def _note_committed(self, error: KafkaError | None, partitions: Iterable[TopicPartition] | None) -> None:
        # Commits are only for tools that show the lag, so a refused commit must not stop reading.
        refused = [error, *(partition.error for partition in partitions or ())]
        noted = {one.name(): judge_error(one.name(), one.str(), fatal=one.fatal()) for one in refused if one}
        for one in noted.values():
            is_fatal = one.action is ErrorAction.REPLACE_CONSUMER
            self._note_error(one if is_fatal else ClientError(one.code, one.detail, ErrorAction.OTHER))

    def _note_error(self, error: ClientError) -> None:
        place = None if error.topic is None or error.partition is None else (error.topic, error.partition)
        if error.action is ErrorAction.IGNORE and place is not None and error.offset is not None:
            self._ends[place] = error.offset
            self._readable.add(place)
        elif error.action is ErrorAction.POSITION_LOST and place is not None:
            self._changes.add(place)
            self._doubted_at = time.monotonic()
        elif error.action is ErrorAction.TRUNCATED and place is not None:
            self._truncated[place] = error.detail
        else:
            self._errors.append(error)
        if error.action is ErrorAction.REPLACE_CONSUMER:
            self._fatal_error = self._fatal_error or error.detail

    def _look_at_topics(self, polled: AbstractSet[Place]) -> bool:
        """Returns False if records were polled, and Kafka does not report the current topics."""
        now = time.monotonic()
        if polled:
            age = FACTS_AGE_SECONDS if self._doubted.isdisjoint(polled) else 0.0
            self._doubted_at = max(self._doubted_at, now - age)
            self._doubted -= polled
        try:
            self._watch.look()
            if self._watch.known_at >= self._doubted_at:
                return True
            if self._asking.allows(now):
                self._watch.ask_now()
                self._asking.note_success()
                return True
        except (KafkaException, TimeoutError) as error:
            self._errors.append(client_error(error))
            self._asking.note_failure(time.monotonic())
        return not polled


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (KafkaException, TimeoutError) as error:
        noted = client_error(error)
        broken = BrokersAway if noted.code in AWAY_CODES else ConsumerBroken
        raise broken(f"{noted.code}: {noted.detail}") from error
    except RuntimeError as error:
        raise ConsumerBroken(f"{type(error).__name__}: {error}") from error
