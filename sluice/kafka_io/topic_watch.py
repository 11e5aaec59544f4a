"""Reads the topics from Kafka repeatedly, because confluent-kafka's consumer does not report them."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection

from sluice.kafka_io.consumer import TopicFacts
from sluice.kafka_io.kafka_errors import ClientError, judge_error
from sluice.runtime.backoff import Backoff
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place
from sluice.runtime.repeat_filter import AWAY

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

log = structlog.get_logger("sluice.bridge")

ASK_EVERY_SECONDS = 0.5  # a request for five topics with 12 partitions costs 1 ms of CPU
ANSWER_TIMEOUT_SECONDS = 5.0
CLOSE_SECONDS = 1.0  # the longest wait for an answer in flight; without a broker, none arrives
# librdkafka's own errors have lower codes. They mean that Kafka did not answer.
_LOWEST_ANSWER = KafkaError.UNKNOWN


class TopicWatch:
    """Reads the facts of topics; owned by one thread.

    If Kafka does not answer, the old facts are kept, because the topics may still exist.
    """

    def __init__(self, admin: "AdminClient", topics: Sequence[str], share: PartitionShare) -> None:
        self._admin = admin
        self._share = share
        self._topics = TopicCollection(list(topics))
        self._asked: dict[str, Future[Any]] = {}
        self._asked_at = float("-inf")
        self._failures = Backoff()  # used only for the log
        self.facts: Mapping[str, TopicFacts] = {}
        """The topics that exist."""
        self.errors: Mapping[str, ClientError] = {}
        """The topics for which Kafka refuses to return facts."""
        self.leaders: Mapping[Place, int] = {}
        """Partition → the broker that leads it. Partitions without a leader are omitted."""
        self.known_at = float("-inf")
        """The time by the monotonic clock when these facts were requested.

        The facts are not older than this time.
        """

    def look(self) -> None:
        """Reads an answer that has arrived, and sends the next request if it is due. Never waits."""
        if self._asked and all(future.done() for future in self._asked.values()):
            try:
                self._take()
            except (KafkaException, TimeoutError) as error:
                if self._failures.note_failure(time.monotonic()):
                    log.warning("Kafka unavailable; no new records are read", error=error, **{AWAY: "Kafka"})
        if not self._asked and time.monotonic() >= self._asked_at + ASK_EVERY_SECONDS:
            self._ask()

    def ask_now(self) -> None:
        """Sends a request and waits for the answer.

        Raises KafkaException or TimeoutError if there is no answer.
        """
        self._ask()
        self._take()

    def close(self) -> None:
        """Waits for the answer in flight, so that the client can be destroyed. Idempotent."""
        # If an answer arrives while librdkafka 2.16 destroys its client, a failed assertion ends the process.
        wait(self._asked.values(), CLOSE_SECONDS)
        self._asked = {}

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        self._asked = self._admin.describe_topics(self._topics, request_timeout=ANSWER_TIMEOUT_SECONDS)

    def _take(self) -> None:
        asked, self._asked = self._asked, {}
        found: dict[str, TopicFacts] = {}
        errors: dict[str, ClientError] = {}
        leaders: dict[Place, int] = {}
        for topic, future in asked.items():
            try:
                # The client's own time-out, which is shorter, has a better message.
                description = future.result(ANSWER_TIMEOUT_SECONDS + 1)
            except KafkaException as error:
                cause = error.args[0]
                if cause.code() < _LOWEST_ANSWER:
                    raise
                if cause.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    errors[topic] = judge_error(cause.name(), cause.str(), topic=topic)
                continue
            led = {part.id: part.leader.id for part in description.partitions if _is_broker(part.leader)}
            leaders |= {(topic, number): broker for number, broker in led.items()}
            numbers = self._share.numbers(len(description.partitions))
            found[topic] = TopicFacts(
                topic_uuid(description.topic_id),
                len(description.partitions),
                frozenset(numbers) - led.keys(),
                self._share,
            )
        self.facts, self.errors, self.leaders, self.known_at = found, errors, leaders, self._asked_at
        if self._failures.note_success():
            log.info("Kafka available again")


def _is_broker(leader: Any) -> bool:
    return leader is not None and leader.id >= 0


def topic_uuid(topic_id: Any) -> str:
    """Returns the id of a topic in the form of kafka-python.

    With one form for both clients, a change of the client does not look like a new topic.
    """
    high, low = topic_id.get_most_significant_bits(), topic_id.get_least_significant_bits()
    return str(UUID(int=(high % 2**64 << 64) | low % 2**64))
