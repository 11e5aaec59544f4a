"""The consumer on kafka-python."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from kafka import TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import (
    FencedInstanceIdError,
    KafkaError,
    LogTruncationError,
    NoOffsetForPartitionError,
    RetriableError,
)
from kafka.structs import OffsetAndMetadata

from sluice.kafka_io.bounded_record import record_of_consumed
from sluice.kafka_io.config import (
    BOOTSTRAP_TIMEOUT_MS,
    FETCH_MAX_BYTES,
    FETCH_MAX_WAIT_MS,
    FETCH_MIN_BYTES,
    GATHER_SECONDS,
    HEARTBEAT_INTERVAL_MS,
    MAX_POLL_INTERVAL_MS,
    MAX_POLL_RECORDS,
    METADATA_MAX_AGE_MS,
    RECONNECT_BACKOFF_MAX_MS,
    SESSION_TIMEOUT_MS,
    build_kafka_python_consumer,
)
from sluice.kafka_io.consumer import BrokersAway, ConsumerBroken, TopicFacts
from sluice.kafka_io.kafka_errors import AWAY_CODES, ClientError, ErrorAction
from sluice.kafka_io.kafka_python_membership import (
    finish_joining,
    note_connect_errors,
    note_heartbeat_errors,
    raise_if_fenced,
)
from sluice.kafka_io.kafka_python_mends import (
    FetchErrors,
    FetchPace,
    TopicMetadata,
    client_error,
    pause_without_position,
    read_position,
    take_up_parked,
)
from sluice.kafka_io.kafka_python_offsets import LeaderOffsets
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import Record
from sluice.runtime.backoff import Backoff
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place

CLOSE_TIMEOUT_MS = 5_000
OFFSETS_TIMEOUT_MS = 5_000
ANSWER_AGE_MS = 15_000
FAILING_SECONDS = 30.0  # if all polls fail for this long, the client is replaced


class KafkaPythonConsumer:
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
        self._share = share
        self._changes = _Changes()
        self._truncated: dict[Place, str] = {}
        # A deque, because its append and pop are atomic, and the client's own thread also appends.
        self._errors: deque[ClientError] = deque()
        self._group_backoff = Backoff()
        self._failing_since: float | None = None
        with _translated():
            self._consumer = build_kafka_python_consumer(
                access,
                client_id="sluice-bridge",
                group_id=group,
                group_instance_id=instance,
                # Positions are stored in Postgres; an automatic reset of a position would skip records.
                auto_offset_reset="none",
                enable_auto_commit=False,
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                partition_assignment_strategy=[
                    CooperativeStickyAssignor if share.is_whole else RangePartitionAssignor
                ],
                fetch_min_bytes=FETCH_MIN_BYTES,
                fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
                fetch_max_bytes=FETCH_MAX_BYTES,
                max_poll_records=MAX_POLL_RECORDS,
                max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
                session_timeout_ms=SESSION_TIMEOUT_MS,
                heartbeat_interval_ms=HEARTBEAT_INTERVAL_MS,
                metadata_max_age_ms=METADATA_MAX_AGE_MS,
                bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
                metrics_enabled=False,
                reconnect_backoff_max_ms=RECONNECT_BACKOFF_MAX_MS,
            )
            # If the leader of the group joins before it has metadata, it assigns nothing for a long time.
            self._consumer.topics()
            self._consumer.subscribe(topics=self._topics, listener=self._changes)
            self._fetches = FetchErrors(self._consumer, self._errors.append, self._changes.note)
            self._metadata = TopicMetadata(self._consumer, self._topics, share)
            self._pace = FetchPace(self._consumer)
            note_connect_errors(self._consumer._manager, self._errors.append)
            note_heartbeat_errors(self._consumer._coordinator, self._errors.append)
            self._offsets = LeaderOffsets(self._consumer, self._errors.append, timeout_ms=OFFSETS_TIMEOUT_MS)

    def poll(self, timeout_seconds: float) -> dict[Place, list[Record]]:
        """See Consumer."""
        with _translated():
            allowed = self._group_backoff.allows(time.monotonic())
            polled = self._poll_once(timeout_seconds) if allowed else None
            if polled is None:
                # After an error, this wait prevents a busy loop.
                time.sleep(max(timeout_seconds, GATHER_SECONDS))
                return {}
            if polled and not self._metadata.renew(self._errors.append):
                # Without new facts, these records may be of another topic, so they are read again.
                self._changes.note(polled)
                return {}
        return {
            (place.topic, place.partition): [
                record_of_consumed(record, self._max_record_bytes) for record in records
            ]
            for place, records in polled.items()
        }

    def _poll_once(self, timeout_seconds: float) -> Any:
        """Polls the client one time. Returns None after an error that concerns the whole member."""
        coordinator = self._consumer._coordinator
        try:
            raise_if_fenced(coordinator)
            finish_joining(coordinator)
            take_up_parked(self._consumer._fetcher)
            pause_without_position(self._consumer)
            polled = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000))
        except NoOffsetForPartitionError:
            # Some partitions were assigned during this poll, and have no position yet.
            return None
        except LogTruncationError as error:
            for place in error.divergent_offsets:
                self._truncated[place.topic, place.partition] = str(error)
                self.seek((place.topic, place.partition), 0)  # or every later poll raises this error
            return {}
        except KafkaError as error:
            noted = client_error(error)
            self._errors.append(noted)
            now = time.monotonic()
            self._failing_since = now if self._failing_since is None else self._failing_since
            lasts = now - self._failing_since >= FAILING_SECONDS and not noted.of_group
            if lasts or noted.action is ErrorAction.REPLACE_CONSUMER:
                raise
            if not isinstance(error, RetriableError):
                self._group_backoff.note_failure(now)
            return None
        self._failing_since = None
        self._group_backoff.note_success()
        self._pace.note_polled(bool(polled))
        return polled

    def take_changes(self) -> frozenset[Place]:
        """See Consumer."""
        return self._changes.take()

    def take_truncated(self) -> Mapping[Place, str]:
        """See Consumer."""
        truncated, self._truncated = self._truncated, {}
        return truncated

    def assignment(self) -> frozenset[Place]:
        """See Consumer."""
        return frozenset(
            (place.topic, place.partition)
            for place in self._consumer.assignment()
            if self._share.holds(place.partition)
        )

    def has_partitions(self) -> bool:
        """See Consumer."""
        return bool(self._consumer.assignment())

    def seek(self, place: Place, offset: int) -> None:
        """See Consumer."""
        try:
            self._consumer.seek(TopicPartition(*place), offset)
            self._consumer.resume(TopicPartition(*place))  # it was paused because it had no position
        except (ValueError, KeyError):
            # The partition was revoked meanwhile; `take_changes` will return it.
            self._changes.note([TopicPartition(*place)])

    def position(self, place: Place) -> int | None:
        """See Consumer."""
        return read_position(self._consumer, place)

    def pause_exactly(self, places: Iterable[Place]) -> None:
        """See Consumer."""
        assigned, before = self._consumer.assignment(), self._consumer.paused()
        wanted = {TopicPartition(*place) for place in places} & assigned
        _for_those_left(self._consumer.pause, wanted - before)
        _for_those_left(self._consumer.resume, before - wanted)

    def paused(self) -> frozenset[Place]:
        """See Consumer."""
        return frozenset((place.topic, place.partition) for place in self._consumer.paused())

    def log_ranges(self, places: Iterable[Place]) -> dict[Place, LogRange]:
        """See Consumer."""
        with _translated():
            return self._offsets.measure(places)

    def topics(self) -> Mapping[str, TopicFacts]:
        """See Consumer."""
        # This is the metadata that the consumer itself uses. An admin client would receive it too late.
        return self._metadata.facts()

    def topic_errors(self) -> Mapping[str, ClientError]:
        """See Consumer."""
        return self._metadata.errors

    def brokers_answer(self) -> bool:
        """See Consumer."""
        age_ms = time.monotonic() * 1_000 - self._consumer._cluster._last_successful_refresh_ms
        return bool(age_ms < METADATA_MAX_AGE_MS + ANSWER_AGE_MS)

    def take_readable(self) -> frozenset[Place]:
        """See Consumer."""
        return self._fetches.take_readable()

    def take_errors(self) -> Sequence[ClientError]:
        """See Consumer."""
        return [self._errors.popleft() for _ in range(len(self._errors))]

    def commit(self, watermarks: Mapping[Place, int]) -> None:
        """See Consumer."""
        metadata = self._commit_metadata()
        offsets = {
            TopicPartition(*place): OffsetAndMetadata(offset, metadata, -1)
            for place, offset in watermarks.items()
        }
        if offsets:
            # The next poll raises this error too.
            with _translated(), suppress(FencedInstanceIdError):
                self._consumer.commit_async(offsets, self._note_committed)

    def _note_committed(self, _: object, answer: object) -> None:
        # Commits are only for tools that show the lag, so a refused commit must not stop reading.
        if isinstance(answer, Exception):
            noted = client_error(answer)
            self._errors.append(ClientError(noted.code, noted.detail, ErrorAction.OTHER))

    def close(self) -> None:
        """See Consumer."""
        with _translated():
            self._consumer.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)


class _Changes(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes partitions, and does nothing else, because the client's own thread calls its methods."""

    def __init__(self) -> None:
        # A deque has an atomic append and pop. A swap of a set could lose partitions noted meanwhile.
        self._noted: deque[Place] = deque()

    def note(self, partitions: Iterable[TopicPartition]) -> None:
        self._noted.extend((place.topic, place.partition) for place in partitions)

    def take(self) -> frozenset[Place]:
        return frozenset(self._noted.popleft() for _ in range(len(self._noted)))

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.note(revoked)

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.note(assigned)

    def on_partitions_lost(self, lost: Any) -> None:
        self.note(lost)


def _for_those_left(method: Callable[..., None], places: Iterable[TopicPartition]) -> None:
    for place in places:
        with suppress(KeyError):  # revoked meanwhile
            method(place)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # After an error has ended the client's thread, every call raises this error.
        broken = BrokersAway if client_error(error).code in AWAY_CODES else ConsumerBroken
        raise broken(f"{type(error).__name__}: {error}") from error
