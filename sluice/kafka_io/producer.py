"""The relay's producer: an interface, and its implementation with confluent-kafka.

`send()` of kafka-python costs 33 µs per record, that of confluent-kafka 5 µs, which matters at thousands of
records per second.
"""

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException

from sluice.kafka_io.access_files import AccessFiles
from sluice.kafka_io.config import (
    LOG_LEVEL_CRITICAL,
    RECONNECT_BACKOFF_MAX_MS,
    SOCKET_TIMEOUT_MS,
    build_confluent_producer,
)
from sluice.kafka_io.login_check import judge_login
from sluice.kafka_io.record_types import Answer, Delivery, OutgoingRecord
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.settings import SettingsError

if TYPE_CHECKING:
    from confluent_kafka import Producer as Client

T = TypeVar("T")  # the token of a record; the answer for the record contains it

# After this time the client does not retry, because the caller holds locks while it waits for the answer.
DELIVERY_TIMEOUT_SECONDS = 2.5  # the client checks this every second, so the answer may take 3.5 seconds
LINGER_MS = 1  # short, because the relay passes all records of a page at the same time
MAX_BYTES = 4 * 1024 * 1024  # high, because the broker and not the client decides which record is too large

# Errors that do not end by themselves: a retry of the same record fails again.
_REFUSED = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        # INVALID_TIMESTAMP is not here: this relay's clock may be corrected, or another relay has a correct
        # clock.
    }
)

REBUILD_SECONDS = 5.0  # until a client without a token is made again, because the caller holds locks

LOOK_SECONDS = 1.0  # the shortest time between two looks at the files of a refused login

# Error texts of answers with `Delivery.AWAY` that do not concern the topic: no broker was reached, or no
# broker answered.
AWAY_TEXTS = frozenset(
    KafkaError(code).str()
    for code in (
        *(KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._TRANSPORT),
        *(KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE),
    )
)

NO_ANSWER = KafkaError(KafkaError._TIMED_OUT).str()
"""The error of records for which the client returned no answer at all. One of AWAY_TEXTS."""


class Producer(Protocol[T]):
    """Sends records to Kafka. Used by one thread."""

    def send(self, row: T, record: OutgoingRecord) -> None:
        """Queues the record of a row.

        `poll` returns exactly one answer for the record, after DELIVERY_TIMEOUT_SECONDS at the latest.
        """

    def poll(self, timeout_seconds: float) -> list[Answer[T]]:
        """Returns the available answers.

        If there is no answer, waits for the first one, at most for this time.
        """

    def close(self) -> None:
        """Drops the records in flight. They may still arrive at Kafka, but get no answer. Idempotent."""


class ConfluentProducer(Generic[T]):
    """See Producer. Connects at the first send.

    Makes a new client after a fatal error, and if the login is refused and its files have changed.
    """

    def __init__(self, access: KafkaAccess) -> None:
        self._access = access
        self._files = AccessFiles(access)
        self._settings: dict[str, Any] = {
            "client.id": "sluice-relay",
            "acks": "all",
            "enable.idempotence": True,
            # This partitioner chooses the same partition as a Java producer.
            "partitioner": "murmur2_random",
            "linger.ms": LINGER_MS,
            "message.timeout.ms": int(DELIVERY_TIMEOUT_SECONDS * 1000),
            "message.max.bytes": MAX_BYTES,
            "socket.timeout.ms": SOCKET_TIMEOUT_MS,
            "queue.buffering.max.messages": 100_000,
            "allow.auto.create.topics": False,
            # Short, because the relay itself retries the records of a missing topic.
            "topic.metadata.propagation.max.ms": 500,
            "reconnect.backoff.max.ms": RECONNECT_BACKOFF_MAX_MS,
            "log_level": LOG_LEVEL_CRITICAL,
            "error_cb": self._note_refusal,
        }
        self._refusal = ""  # why the brokers refuse the login, which the answers for records do not contain
        self._may_build_at = self._may_look_at = 0.0
        self._client: Client | None = None
        self._is_broken = False
        self._answers: list[Answer[T]] = []

    def send(self, row: T, record: OutgoingRecord) -> None:
        """See Producer."""
        self._look_at_files()
        if self._is_broken and self._client is not None:
            # The length of the client also counts errors that no poll has reported.
            self._client.poll(0)
            if not len(self._client):
                # The client is replaced only when all its answers were fetched, because the caller waits for
                # them.
                self._client, self._is_broken = None, False
        if self._client is None and not self._build():
            self._answers.append((row, Delivery.AWAY, self._refusal))
            return
        assert self._client is not None
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
            # Does not wait if `send` already stored an answer, for a record that the client itself refused.
            self._client.poll(0 if self._answers else timeout_seconds)
        answers = self._answers.copy()
        self._answers.clear()
        return answers

    def close(self) -> None:
        """See Producer."""
        client, self._client, self._is_broken = self._client, None, False
        self._answers = []  # a new list, because later answers of the old client must be dropped
        if client is not None:
            client.purge()

    def _look_at_files(self) -> None:
        """Has the client replaced if the brokers refuse the login, and its files have changed since."""
        now = time.monotonic()
        if self._refusal and self._client is not None and now >= self._may_look_at:
            self._may_look_at = now + LOOK_SECONDS
            self._is_broken = self._is_broken or self._files.have_changed()

    def _build(self) -> bool:
        """Makes the client. Returns False if the login has no token, and then does not ask again at once."""
        if time.monotonic() < self._may_build_at:
            return False
        try:
            self._files.note()
            self._client = build_confluent_producer(self._access, self._settings)
        except (KafkaException, SettingsError) as problem:
            is_of_client = isinstance(problem, KafkaException)
            self._refusal = problem.args[0].str() if is_of_client else str(problem)
            self._may_build_at = time.monotonic() + REBUILD_SECONDS
            return False
        self._refusal = ""
        return True

    def _note_refusal(self, error: KafkaError) -> None:
        if error.code() == KafkaError._AUTHENTICATION:
            self._refusal = judge_login(self._access, self._access.bootstrap_servers, error.str())
        elif error.code() == KafkaError._SSL:
            self._refusal = error.str()

    def _note(
        self, answers: list[Answer[T]], row: T, error: KafkaError | None, _message: object = None
    ) -> None:
        if error is None:
            self._refusal = ""
            answers.append((row, Delivery.ACKNOWLEDGED, ""))
        else:
            answers.append((row, *self._judge(error)))

    def _judge(self, error: KafkaError) -> tuple[Delivery, str]:
        if error.fatal() or error.code() == KafkaError._FATAL:
            # After a fatal error, the client accepts no more records. For example, a broker lost the state of
            # the idempotent producer.
            self._is_broken = True
        if error.code() in _REFUSED:
            return Delivery.REFUSED, error.str()
        return Delivery.AWAY, self._refusal if error.str() in AWAY_TEXTS and self._refusal else error.str()
