"""The consumer on kafka-python."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from kafka import TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    FencedInstanceIdError,
    IllegalStateError,
    KafkaError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RetriableError,
)
from kafka.structs import OffsetAndMetadata

from sluice.kafka_io.config import (
    BOOTSTRAP_TIMEOUT_MS,
    FETCH_MAX_BYTES,
    FETCH_MAX_WAIT_MS,
    FETCH_MIN_BYTES,
    HEARTBEAT_INTERVAL_MS,
    MAX_POLL_INTERVAL_MS,
    MAX_POLL_RECORDS,
    METADATA_MAX_AGE_MS,
    RECONNECT_BACKOFF_MAX_MS,
    SESSION_TIMEOUT_MS,
    KafkaAccess,
    build_kafka_python_consumer,
)
from sluice.kafka_io.consumer import ConsumerBroken, TopicFacts
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place

CLOSE_TIMEOUT_MS = 5_000
OFFSETS_TIMEOUT_MS = 10_000
ANSWER_TIMEOUT_MS = 5_000
RETRY_SECONDS = 0.1


class KafkaPythonConsumer:
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
        self._changes = _Changes()
        self._truncated: dict[Place, str] = {}
        with _translated():
            self._consumer = build_kafka_python_consumer(
                KafkaAccess(bootstrap_servers),
                client_id="sluice-bridge",
                group_id=group,
                group_instance_id=instance,
                # The bridge resumes from Postgres; a position that resets itself skips records.
                auto_offset_reset="none",
                enable_auto_commit=False,
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                partition_assignment_strategy=[CooperativeStickyAssignor],
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
            # A leader that joins before its first metadata assigns nothing, and for long.
            self._consumer.topics()
            self._consumer.subscribe(topics=self._topics, listener=self._changes)

    def poll(self, timeout_seconds: float) -> dict[Place, list[Record]]:
        """See Consumer."""
        with _translated():
            try:
                self._raise_if_fenced()
                self._finish_joining()
                self._take_up_parked()
                polled = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000))
            except NoOffsetForPartitionError:
                # A partition that was not seeked yet; the others must not make a busy loop of it.
                time.sleep(timeout_seconds)
                return {}
            except OffsetOutOfRangeError as error:
                self._changes.note(error.args[0])
                return {}
            except LogTruncationError as error:
                for place in error.divergent_offsets:
                    self._truncated[place.topic, place.partition] = str(error)
                    self.seek((place.topic, place.partition), 0)  # else every later poll raises this
                return {}
            except RetriableError:
                time.sleep(timeout_seconds)
                return {}
            if polled:
                self._look_at_topics()
        return {
            (place.topic, place.partition): [
                # By position: attribute by attribute costs half as much again.
                Record(offset, timestamp, key, value, headers)
                for _, _, _, offset, timestamp, _, key, value, headers, *_ in records
            ]
            for place, records in polled.items()
        }

    def _raise_if_fenced(self) -> None:
        # kafka-python 3.0.12 ends the heartbeats of a member that is fenced, logs that, and polls on without
        # records. It also pauses them while it joins; both marks of that change under this lock.
        coordinator = self._consumer._coordinator
        with coordinator._lock:
            ended = not coordinator._heartbeat_enabled and not coordinator.rejoining
            if ended and coordinator.stable():
                raise FencedInstanceIdError(f"another consumer has the name {coordinator.group_instance_id}")

    def _finish_joining(self) -> None:
        # kafka-python 3.0.12 forgets a join under way when a poll ends between its two answers: the group
        # then counts a member that polls for ever and gets nothing.
        coordinator = self._consumer._coordinator
        if coordinator.rejoining:
            coordinator.request_rejoin()

    def _take_up_parked(self) -> None:
        # kafka-python 3.0.12 puts away what it has of a partition that is paused, and takes it up again only
        # while nothing else is in line. What is in line stays there when it is used up: if no later answer
        # takes its place, a resumed partition is neither taken up nor fetched, for ever.
        fetcher = self._consumer._fetcher
        if fetcher._next_partition_records is not None and not fetcher._next_partition_records:
            fetcher._next_partition_records = None

    def _look_at_topics(self) -> None:
        # kafka-python 3.0.12 fetches by name: what it reads of a topic created anew, at its old position,
        # looks like the old one's. What has the old id after it was polled is of the old topic.
        deadline = time.monotonic() + ANSWER_TIMEOUT_MS / 1000
        while True:
            try:
                self._consumer._manager.run(self._refresh_metadata)
                return
            except RetriableError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(RETRY_SECONDS)

    async def _refresh_metadata(self) -> None:
        cluster, manager = self._consumer._cluster, self._consumer._manager
        if cluster.metadata_refresh_in_progress:
            # Asked for earlier, it must not be noted later. Its own timeout is half of MAX_POLL_INTERVAL_MS.
            with suppress(KafkaError):
                await manager.wait_for(manager.call_soon(cluster.refresh_metadata), ANSWER_TIMEOUT_MS)
        answer = await manager.send(cluster.metadata_request(), request_timeout_ms=ANSWER_TIMEOUT_MS)
        cluster.update_metadata(answer)

    def take_changes(self) -> frozenset[Place]:
        """See Consumer."""
        return self._changes.take()

    def take_truncated(self) -> Mapping[Place, str]:
        """See Consumer."""
        truncated, self._truncated = self._truncated, {}
        return truncated

    def assignment(self) -> frozenset[Place]:
        """See Consumer."""
        return frozenset((place.topic, place.partition) for place in self._consumer.assignment())

    def seek(self, place: Place, offset: int) -> None:
        """See Consumer."""
        try:
            self._consumer.seek(TopicPartition(*place), offset)
        except (ValueError, KeyError):
            # It went meanwhile: the change is noted and will be taken.
            self._changes.note([TopicPartition(*place)])

    def position(self, place: Place) -> int | None:
        """See Consumer."""
        try:
            position: int | None = self._consumer.position(TopicPartition(*place), timeout_ms=0)
        except (KafkaError, KeyError):
            return None
        return position

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
        # kafka-python fails for a partition that a topic created anew lacks and the group still has.
        cluster = self._consumer._cluster
        wanted = [
            TopicPartition(topic, number)
            for topic, number in places
            if number in (cluster.partitions_for_topic(topic) or ())
        ]
        with _translated():
            starts = self._consumer.beginning_offsets(wanted, timeout_ms=OFFSETS_TIMEOUT_MS)
            ends = self._consumer.end_offsets(wanted, timeout_ms=OFFSETS_TIMEOUT_MS)
        return {
            (place.topic, place.partition): LogRange(starts[place], ends[place])
            for place in wanted
            if place in starts and place in ends
        }

    def topics(self) -> Mapping[str, TopicFacts]:
        """See Consumer."""
        # The metadata the consumer itself goes by: a later answer of an admin client would come too late.
        cluster = self._consumer._cluster
        found = {}
        for topic in self._topics:
            partitions, topic_id = cluster.partitions_for_topic(topic), cluster.topic_id(topic)
            if partitions and topic_id is not None:
                found[topic] = TopicFacts(str(topic_id), len(partitions))
        return found

    def commit(self, watermarks: Mapping[Place, int]) -> None:
        """See Consumer."""
        metadata = self._commit_metadata()
        offsets = {
            TopicPartition(*place): OffsetAndMetadata(offset, metadata, -1)
            for place, offset in watermarks.items()
        }
        if offsets:
            # The next poll raises it as well.
            with _translated(), suppress(FencedInstanceIdError):
                self._consumer.commit_async(offsets)

    def close(self) -> None:
        """See Consumer."""
        with _translated():
            self._consumer.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)


class _Changes(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes partitions. Called from the client's own thread, so it does nothing else."""

    def __init__(self) -> None:
        # Appending and popping are atomic; swapping a set would drop what is noted meanwhile.
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
        try:
            method(place)
        except KeyError:  # it went meanwhile
            continue


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (KafkaError, IllegalStateError, AssertionError) as error:
        raise ConsumerBroken(f"{type(error).__name__}: {error}") from error
