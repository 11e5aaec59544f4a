"""Produces records, partitioned by murmur2 like a Java producer, and waits until Kafka acknowledges them."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from kafka.errors import KafkaError

from sluice.admin.event_lines import LineRefused, Outgoing
from sluice.kafka_io.config import (
    BOOTSTRAP_TIMEOUT_MS,
    build_kafka_python_admin,
    build_kafka_python_producer,
)
from sluice.runtime.kafka_access import KafkaAccess

# The broker must decide which record is too large, not the producer.
MAX_REQUEST_BYTES = 64 * 1024 * 1024
# This limits memory: the producer itself would keep any number of records.
MAX_UNACKNOWLEDGED_BYTES = 16 * 1024 * 1024
# The approximate memory of an unacknowledged record in Python, without key and value.
RECORD_OVERHEAD_BYTES = 1_024
# After this time, a record that is not acknowledged counts as failed.
DELIVERY_TIMEOUT_MS = 30_000
LINGER_MS = 5


class SendFailed(RuntimeError):
    """Kafka did not accept a record; the message has the reason, and how many it accepted."""


class Sender:
    """A producer and the records that were acknowledged. The caller must close it."""

    def __init__(self, access: KafkaAccess, *, sent_one: Callable[[], object] = lambda: None) -> None:
        """Calls `sent_one` for each record that is passed to the producer. Raises KafkaError if no
        broker answers.
        """
        self.acknowledged: Counter[str] = Counter()
        """Topic → records. Only the producer's thread writes this field and the next field."""
        self.newest: tuple[str, int, int] | None = None
        """Topic, partition and offset of the record that was acknowledged last."""
        self._errors: list[BaseException] = []
        self._unacknowledged_bytes = 0
        self._sent_one = sent_one
        self._producer = build_kafka_python_producer(
            access,
            client_id="sluice-send",
            acks="all",
            linger_ms=LINGER_MS,
            max_request_size=MAX_REQUEST_BYTES,
            delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
            request_timeout_ms=DELIVERY_TIMEOUT_MS // 2,
            max_block_ms=DELIVERY_TIMEOUT_MS,
            bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
        )

    def send_all(self, records: Iterable[Outgoing], *, per_second: float | None = None) -> None:
        """Sends all records and waits until they are acknowledged.

        Raises SendFailed if a record is not acknowledged. If `records` raises LineRefused, raises it
        again after the earlier records are acknowledged.
        """
        began = time.monotonic()
        try:
            for number, record in enumerate(records):
                if per_second is not None:
                    time.sleep(max(0.0, began + number / per_second - time.monotonic()))
                self._send(record)
        except LineRefused as refused:
            self._settle()
            acknowledged = self.acknowledged.total()
            raise LineRefused(refused.number, refused.reason, acknowledged=acknowledged) from refused
        self._settle()

    def close(self) -> None:
        """Closes the connections. Idempotent."""
        self._producer.close(timeout=DELIVERY_TIMEOUT_MS / 1000)

    def _send(self, record: Outgoing) -> None:
        size = RECORD_OVERHEAD_BYTES + len(record.key or b"") + len(record.value or b"")
        if self._errors or self._unacknowledged_bytes + size > MAX_UNACKNOWLEDGED_BYTES:
            self._settle()
        self._unacknowledged_bytes += size
        try:
            future = self._producer.send(
                record.topic, key=record.key, value=record.value, headers=record.headers
            )
        except KafkaError as error:
            self._errors.append(error)
            return
        future.add_callback(self._note)
        future.add_errback(self._errors.append)
        self._sent_one()

    def _note(self, sent: Any) -> None:
        self.acknowledged.update([sent.topic])
        self.newest = (sent.topic, sent.partition, sent.offset)

    def _settle(self) -> None:
        """Waits until all records are acknowledged. Raises SendFailed if a record failed."""
        try:
            self._producer.flush(timeout=DELIVERY_TIMEOUT_MS / 1000)
        except KafkaError as error:
            self._errors.append(error)
        self._unacknowledged_bytes = 0
        if self._errors:
            raise SendFailed(
                f"Kafka did not accept every record: {self._errors[0]}; "
                f"{self.acknowledged.total()} were acknowledged"
            )


def read_topics(access: KafkaAccess) -> frozenset[str]:
    """Returns the topics of the cluster, without Kafka's own. Raises KafkaError if no broker answers."""
    admin = build_kafka_python_admin(access, bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS)
    try:
        return frozenset(name for name in admin.list_topics() if not name.startswith("__"))
    finally:
        admin.close()
