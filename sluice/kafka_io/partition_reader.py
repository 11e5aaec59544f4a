"""Reads one partition by itself, from an offset on: in no group, and nothing is committed."""

import time
from typing import Any

from confluent_kafka import KafkaError, TopicPartition

from sluice.kafka_io.config import RECONNECT_BACKOFF_MAX_MS, KafkaAccess, build_confluent_consumer
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place

MAX_RECORDS = 2_000  # of one read
CONSUME_SECONDS = 0.05  # what the client is asked to wait for a full answer
QUEUED_KIB = 16 * 1024  # what the client reads ahead
_POSITION_LOST = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})


class LogIncomplete(Exception):
    """The log no longer holds what has to be read; the message says from where on it does."""


class PartitionReader:
    """`read_through`: every committed record up to there was returned. Close it."""

    def __init__(self, bootstrap_servers: str, place: Place, offset: int) -> None:
        """Reads from this offset on."""
        self._place = place
        self.read_through = offset - 1
        self._consumer = build_confluent_consumer(
            KafkaAccess(bootstrap_servers),
            {
                "client.id": "sluice-rebuild",
                # The client wants one; it is never joined and nothing is committed under it.
                "group.id": "sluice-rebuild",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "allow.auto.create.topics": False,
                "queued.max.messages.kbytes": QUEUED_KIB,
                # Where that is full the client waits, by default for a second.
                "fetch.queue.backoff.ms": 10,
                "fetch.wait.max.ms": 100,
                "reconnect.backoff.max.ms": RECONNECT_BACKOFF_MAX_MS,
                "log_level": 3,
            },
        )
        self._consumer.assign([TopicPartition(*place, offset)])

    def read(self, timeout_seconds: float) -> list[Record]:
        """The next records, [] if none come in time or the log ends here. Raises LogIncomplete."""
        records: list[Record] = []
        at_end = False
        deadline = time.monotonic() + timeout_seconds
        while not records and not at_end and (left := deadline - time.monotonic()) > 0:
            message: Any
            for message in self._consumer.consume(MAX_RECORDS, min(left, CONSUME_SECONDS)):
                error = message.error()
                if error is None:
                    headers = message.headers() or []
                    stamp = message.timestamp()[1]
                    records.append(Record(message.offset(), stamp, message.key(), message.value(), headers))
                elif error.code() == KafkaError._PARTITION_EOF:
                    # What was the end then; records may have come since, and follow in this very answer.
                    at_end = True
                    self.read_through = max(self.read_through, message.offset() - 1)
                elif error.code() in _POSITION_LOST:
                    topic, partition = self._place
                    raise LogIncomplete(
                        f"{topic}[{partition}] no longer holds the records after offset {self.read_through}"
                    )
        if records:
            self.read_through = max(self.read_through, records[-1].offset)
        return records

    def close(self) -> None:
        """Ends the connections."""
        self._consumer.close()
