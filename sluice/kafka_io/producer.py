"""How the relay reaches Kafka: an interface, and confluent-kafka behind it.

`send()` of kafka-python costs 33 µs a record, of confluent-kafka 5: at thousands a second that decides.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException

from sluice.kafka_io.config import (
    LOG_LEVEL_CRITICAL,
    RECONNECT_BACKOFF_MAX_MS,
    SOCKET_TIMEOUT_MS,
    KafkaAccess,
    build_confluent_producer,
)
from sluice.kafka_io.record_types import Answer, Delivery, OutgoingRecord

if TYPE_CHECKING:
    from confluent_kafka import Producer as Client

T = TypeVar("T")  # the token of a record: answers carry it

# Above this nothing is tried any more: whoever waits for the answer holds locks meanwhile.
DELIVERY_TIMEOUT_SECONDS = 2.5  # the client looks once a second: up to 3.5
LINGER_MS = 1  # a page is handed over at once: its records need not wait for each other
MAX_BYTES = 4 * 1024 * 1024  # the broker is to say what is too large, not the client

# Errors that the same record meets again, however long one waits.
_REFUSED = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        # Not INVALID_TIMESTAMP: the clock of this relay is wrong, and will be right, or another relay's is.
    }
)

# Texts of answers AWAY that say nothing about the topic: no broker was reached, or none answered.
AWAY_TEXTS = frozenset(
    KafkaError(code).str()
    for code in (
        *(KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._TRANSPORT),
        *(KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE),
    )
)


class Producer(Protocol[T]):
    """Hands records to Kafka. One thread uses it."""

    def send(self, row: T, record: OutgoingRecord) -> None:
        """Hands over the record of a row. `poll` answers it exactly once, within DELIVERY_TIMEOUT_SECONDS."""

    def poll(self, timeout_seconds: float) -> list[Answer[T]]:
        """The answers there are; waits for the first for so long."""

    def close(self) -> None:
        """Gives up what is in flight: it may arrive all the same, and is not answered. May run twice."""


class ConfluentProducer(Generic[T]):
    """See Producer. Connects when something is sent; after a fatal error with a new client."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._access = KafkaAccess(bootstrap_servers)
        self._settings: dict[str, Any] = {
            "client.id": "sluice-relay",
            "acks": "all",
            "enable.idempotence": True,
            # The partition that a Java producer would choose.
            "partitioner": "murmur2_random",
            "linger.ms": LINGER_MS,
            "message.timeout.ms": int(DELIVERY_TIMEOUT_SECONDS * 1000),
            "message.max.bytes": MAX_BYTES,
            "socket.timeout.ms": SOCKET_TIMEOUT_MS,
            "queue.buffering.max.messages": 100_000,
            "allow.auto.create.topics": False,
            # A topic that is missing is told at once, and tried again by the relay's own clock.
            "topic.metadata.propagation.max.ms": 500,
            "reconnect.backoff.max.ms": RECONNECT_BACKOFF_MAX_MS,
            "log_level": LOG_LEVEL_CRITICAL,
        }
        self._client: Client | None = None
        self._is_broken = False
        self._answers: list[Answer[T]] = []

    def send(self, row: T, record: OutgoingRecord) -> None:
        """See Producer."""
        if self._is_broken and self._client is not None and not len(self._client):
            # Not before its last answer is fetched: somebody waits for that.
            self._client, self._is_broken = None, False
        if self._client is None:
            self._client = build_confluent_producer(self._access, self._settings)
        try:
            self._client.produce(
                record.topic,
                record.value,
                record.key,
                on_delivery=partial(self._note, self._answers, row),
                headers=record.headers,
            )
        except BufferError as full:
            self._answers.append((row, Delivery.AWAY, str(full)))
        except KafkaException as problem:
            self._note(self._answers, row, problem.args[0])

    def poll(self, timeout_seconds: float) -> list[Answer[T]]:
        """See Producer."""
        if self._client is not None:
            # A record that was not even taken is answered already.
            self._client.poll(0 if self._answers else timeout_seconds)
        answers = self._answers.copy()
        self._answers.clear()
        return answers

    def close(self) -> None:
        """See Producer."""
        client, self._client, self._is_broken = self._client, None, False
        self._answers = []  # a new one: what the old client still says is nobody's any more
        if client is not None:
            client.purge()

    def _note(
        self, answers: list[Answer[T]], row: T, error: KafkaError | None, _message: object = None
    ) -> None:
        if error is None:
            answers.append((row, Delivery.ACKNOWLEDGED, ""))
        else:
            answers.append((row, *self._judge(error)))

    def _judge(self, error: KafkaError) -> tuple[Delivery, str]:
        if error.fatal() or error.code() == KafkaError._FATAL:
            # This client takes nothing any more; with idempotence a broker that lost state is enough.
            self._is_broken = True
        if error.code() in _REFUSED:
            return Delivery.REFUSED, error.str()
        return Delivery.AWAY, error.str()
