"""Workarounds for faults of kafka-python 3.0.12 in a bridge's consumer.

If one partition or topic has an error, kafka-python either raises the error from a poll or ignores it. The
workarounds note such an error, and the other partitions and topics continue. The workarounds replace private
methods of the objects of one consumer.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from kafka import TopicPartition
from kafka.errors import (
    BrokerResponseError,
    KafkaError,
    MetadataEmptyBrokerList,
    OffsetOutOfRangeError,
    RetriableError,
    UnknownTopicOrPartitionError,
    for_code,
)
from kafka.util import WeakMethod

from sluice.kafka_io.config import FETCH_MAX_WAIT_MS, FETCH_MIN_BYTES
from sluice.kafka_io.consumer import TopicFacts
from sluice.kafka_io.kafka_errors import ClientError, ErrorAction, judge_error
from sluice.runtime.backoff import Backoffs
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place

# The longest pause before a failed fetch is repeated; kafka-python itself repeats it at every poll.
FETCH_AGAIN_SECONDS = 10.0
ANSWER_TIMEOUT_MS = 5_000
RETRY_SECONDS = 0.1
# A partition that starts during such a fetch is first fetched after this time at the latest.
IDLE_FETCH_MAX_WAIT_MS = 200

NoteError = Callable[[ClientError], None]


def client_error(error: Exception, place: Place | None = None, topic: str | None = None) -> ClientError:
    """Converts an exception of kafka-python to a ClientError."""
    code = error.message if isinstance(error, BrokerResponseError) and error.message else type(error).__name__
    return judge_error(code, str(error), place=place, topic=topic)


class FetchErrors:
    """Handles the fetches of one consumer. An error of one partition does not affect the others."""

    def __init__(
        self, consumer: Any, note: NoteError, note_lost: Callable[[Iterable[TopicPartition]], None]
    ) -> None:
        """`note_lost` is called with the partitions whose position is not in their log."""
        fetcher = consumer._fetcher
        self._note, self._note_lost = note, note_lost
        self._failing: Backoffs[TopicPartition] = Backoffs(max_seconds=FETCH_AGAIN_SECONDS)
        self._readable: set[Place] = set()
        self._fetchable = fetcher._fetchable_partitions
        self._parse = fetcher._parse_fetched_data
        self._append = fetcher._append
        fetcher._fetchable_partitions = self._leave_failing_out
        fetcher._parse_fetched_data = self._parse_one
        fetcher._append = self._append_one

    def take_readable(self) -> frozenset[Place]:
        """Returns the partitions that were read since the last call."""
        readable, self._readable = frozenset(self._readable), set()
        return readable

    def _leave_failing_out(self) -> list[TopicPartition]:
        now = time.monotonic()
        return [place for place in self._fetchable() if self._failing.allows(place, now)]

    def _parse_one(self, fetched: Any) -> Any:
        place = fetched.topic_partition
        try:
            parsed = self._parse(fetched)
        except OffsetOutOfRangeError:
            self._note_lost([place])
            return None
        except Exception as error:
            self._note_failed(place, fetched.fetched_offset, client_error(error, tuple(place)))
            return None
        if parsed is not None and not fetched.partition_data.records:
            self._note_read(place)
        return parsed

    def _append_one(self, drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
        place = part.topic_partition
        try:
            appended: int = self._append(drained, part, max_records, update_offsets)
        except Exception as error:
            # For an answer that cannot be parsed, the protocol has no error code.
            noted = client_error(error, tuple(place))
            self._note_failed(
                place, part.next_fetch_offset, noted._replace(action=ErrorAction.UNREADABLE_RECORD)
            )
            part.drain()
            return 0
        if appended:
            self._note_read(place)
        return appended

    def _note_failed(self, place: TopicPartition, offset: int, error: ClientError) -> None:
        self._failing.note_failure(place, time.monotonic())
        self._note(error._replace(offset=offset))

    def _note_read(self, place: TopicPartition) -> None:
        self._failing.note_success(place)
        self._readable.add((place.topic, place.partition))


class TopicMetadata:
    """Reads the metadata of one consumer's topics. A refused topic does not affect the other topics."""

    def __init__(self, consumer: Any, topics: Iterable[str], share: PartitionShare) -> None:
        self.errors: Mapping[str, ClientError] = {}
        """The error that Kafka returned instead of each topic's metadata.

        Topics that do not exist are omitted.
        """
        self._cluster, self._manager = consumer._cluster, consumer._manager
        self._coordinator = consumer._coordinator
        self._topics = tuple(topics)
        self._updates = 0
        self._facts: tuple[int, Mapping[str, TopicFacts]] = (-1, {})
        self._share = share
        self._update = self._cluster.update_metadata
        self._cluster.update_metadata = self._take
        # The coordinator's own listener raises an error for a denied topic, and then ignores the other
        # topics.
        self._cluster.remove_listener(WeakMethod(self._coordinator._handle_metadata_update))
        self._cluster.add_listener(self._handle_update)

    def facts(self) -> Mapping[str, TopicFacts]:
        """Returns the facts of the topics that exist. Computes them again only after an update."""
        # The client's own thread updates the metadata. The number is read first, so that facts from before an
        # update never count as newer.
        updates = self._updates
        if self._facts[0] != updates:
            self._facts = (updates, self._compute_facts())
        return self._facts[1]

    def _compute_facts(self) -> dict[str, TopicFacts]:
        found = {}
        for topic in self._topics:
            partitions, topic_id = self._cluster.partitions_for_topic(topic), self._cluster.topic_id(topic)
            if partitions and topic_id is not None:
                led = self._cluster.available_partitions_for_topic(topic) or set()
                numbers = frozenset(self._share.numbers(len(partitions)))
                found[topic] = TopicFacts(str(topic_id), len(partitions), numbers - led, self._share)
        return found

    def renew(self, note: NoteError) -> bool:
        """Requests the metadata and waits.

        If there is no answer, passes the error to `note` and returns False.
        """
        # kafka-python fetches topics by name. If a topic was re-created, records of the new topic at the old
        # position look like records of the old topic. If the topic still has its old id after a poll, the
        # polled records belong to the old topic.
        deadline = time.monotonic() + ANSWER_TIMEOUT_MS / 1000
        while True:
            try:
                self._manager.run(self._ask)
                return True
            except KafkaError as error:
                if time.monotonic() >= deadline or not isinstance(error, RetriableError):
                    note(client_error(error))
                    return False
            time.sleep(RETRY_SECONDS)

    async def _ask(self) -> None:
        cluster, manager = self._cluster, self._manager
        if cluster.metadata_refresh_in_progress:
            # Waits for the refresh that is in progress, or its older answer would replace the answer below.
            # The client's own timeout would be half of MAX_POLL_INTERVAL_MS.
            with suppress(KafkaError):
                await manager.wait_for(manager.call_soon(cluster.refresh_metadata), ANSWER_TIMEOUT_MS)
        answer = await manager.send(cluster.metadata_request(), request_timeout_ms=ANSWER_TIMEOUT_MS)
        if not answer.brokers:
            # The broker is starting, or the controller has fenced it. kafka-python then keeps its old
            # metadata.
            raise MetadataEmptyBrokerList("the broker lists no broker of its cluster")
        cluster.update_metadata(answer)

    def _take(self, answer: Any) -> None:
        errors = {}
        for found in answer.topics:
            error = for_code(found.error_code)
            if found.error_code and error is not UnknownTopicOrPartitionError and found.name in self._topics:
                errors[found.name] = client_error(error(), topic=found.name)
        self._update(answer)
        self._updates += 1
        if answer.brokers:
            self.errors = errors
            # Without this line, a topic with an invalid name would not be requested again, and would count as
            # deleted.
            self._cluster._topics.update(self._topics)

    def _handle_update(self, cluster: Any) -> None:
        cluster.unauthorized_topics = set()
        self._coordinator._handle_metadata_update(cluster)


class FetchPace:
    """Sets how long a broker waits with its answer to the fetches of one consumer.

    Each answer costs time in proportion to the number of partitions. While no records arrive, a broker
    therefore waits for longer, and answers at once when it has a record.
    """

    def __init__(self, consumer: Any) -> None:
        self._config = consumer._fetcher.config

    def note_polled(self, has_records: bool) -> None:
        """Notes whether the newest poll returned records. The next fetch uses the new pace."""
        self._config["fetch_min_bytes"] = FETCH_MIN_BYTES if has_records else 1
        self._config["fetch_max_wait_ms"] = FETCH_MAX_WAIT_MS if has_records else IDLE_FETCH_MAX_WAIT_MS


def read_position(consumer: Any, place: Place) -> int | None:
    """Returns the position of an assigned partition; None if it has none."""
    # The client's own method first checks the positions of all partitions.
    state = consumer._subscription.assignment.get(TopicPartition(*place))
    position = None if state is None else state.position
    return None if position is None else int(position.offset)


def take_up_parked(fetcher: Any) -> None:
    """Makes the fetcher return its buffered records of partitions that were resumed."""
    # kafka-python sets aside the buffered records of a paused partition. It uses them again only if no other
    # buffer is current, but an empty buffer stays current until a later answer replaces it. Without such an
    # answer, a resumed partition would never be returned or fetched.
    if fetcher._next_partition_records is not None and not fetcher._next_partition_records:
        fetcher._next_partition_records = None


def pause_without_position(consumer: Any) -> None:
    """Pauses assigned partitions that have no position. `seek` resumes them."""
    # If one partition has no position, every poll of kafka-python raises an error, and no partition is read.
    subscription = consumer._subscription
    for place in subscription.missing_fetch_positions():
        consumer.seek(place, 0)
        consumer.pause(place)
