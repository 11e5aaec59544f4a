"""Reads one partition from an offset on, without a group and without commits."""

import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from sluice.kafka_io.bounded_record import record_of
from sluice.kafka_io.config import (
    LOG_LEVEL_CRITICAL,
    RECONNECT_BACKOFF_MAX_MS,
    build_confluent_consumer,
)
from sluice.kafka_io.record_types import Record
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.place import Place
from sluice.runtime.skipped_range import SkippedRange, next_unskipped

MAX_RECORDS = 2_000  # the most records of one read
CONSUME_SECONDS = 0.05  # how long the client may wait for a full answer
QUEUED_KIB = 16 * 1024  # the most that the client reads ahead
STALLED_SECONDS = 10.0
LOG_END_SECONDS = 5.0
_POSITION_LOST = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})

UNREADABLE = frozenset(
    {
        KafkaError._BAD_COMPRESSION,
        KafkaError._BAD_MSG,
        KafkaError._NOT_IMPLEMENTED,  # an unknown codec or format of the batch
        KafkaError._UNDERFLOW,
        KafkaError.INVALID_MSG,  # the broker itself found the batch corrupt
    }
)
"""Error codes for a record that the client cannot open. The client fetches such a record repeatedly."""


class LogIncomplete(Exception):
    """Raised if the log no longer has the next record."""


class PartitionStalled(Exception):
    """Raised if no record arrived and the broker did not answer."""

    kafka_code = "_TIMED_OUT"


class RecordUnreadable(Exception):
    """Raised if the client cannot open the record at this offset. All earlier records were returned."""

    def __init__(self, place: Place, offset: int, reason: str) -> None:
        self.place = place
        self.offset = offset
        self.reason = reason
        super().__init__(f"{place[0]}[{place[1]}]: the record at offset {offset} cannot be read: {reason}")


def reader_properties(client_id: str, *, reset: str) -> dict[str, Any]:
    """Returns the properties of a consumer that joins no group and reads only committed records."""
    return {
        "client.id": client_id,
        # The client requires the name of a group. It does not join the group, and commits no offset in it.
        "group.id": client_id,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "auto.offset.reset": reset,
        "isolation.level": "read_committed",
        "allow.auto.create.topics": False,
        "fetch.wait.max.ms": 100,
        "reconnect.backoff.max.ms": RECONNECT_BACKOFF_MAX_MS,
        "log_level": LOG_LEVEL_CRITICAL,
    }


class PartitionReader:
    """Reads the committed records of one partition. Call `close` after use.

    Every committed record up to the offset `read_through` was returned, or is in `skipped`.
    """

    def __init__(
        self,
        access: KafkaAccess,
        place: Place,
        offset: int,
        *,
        skipped: Sequence[SkippedRange] = (),
        client_id: str = "sluice-rebuild",
        max_record_bytes: int | None = None,
    ) -> None:
        """Reads from this offset on, without the offsets in `skipped`.

        Records of more than `max_record_bytes` are returned without their value, see `bounded_record`.
        """
        self._max_record_bytes = max_record_bytes
        self._place = place
        self.read_through = offset - 1
        self._skipped = skipped
        self._waited_seconds = 0.0
        self._unreadable: RecordUnreadable | None = None
        self._consumer = build_confluent_consumer(
            access,
            {
                **reader_properties(client_id, reset="error"),
                "queued.max.messages.kbytes": QUEUED_KIB,
                # If the buffer is full, the client waits, by default for a second.
                "fetch.queue.backoff.ms": 10,
            },
        )
        self._seek(next_unskipped(skipped, offset))

    def read(self, timeout_seconds: float) -> list[Record]:
        """Returns the next records; [] if no record arrives in time or the reader is at the end of the log.

        Raises LogIncomplete, RecordUnreadable, or PartitionStalled after STALLED_SECONDS without an answer.
        """
        if self._unreadable is not None:
            raise self._unreadable
        began, before = time.monotonic(), self.read_through
        records: list[Record] = []
        at_end = False
        met: RecordUnreadable | None = None
        while not records and not at_end and (left := began + timeout_seconds - time.monotonic()) > 0:
            try:
                for message in self._consumer.consume(MAX_RECORDS, min(left, CONSUME_SECONDS)):
                    at_end |= self._take(message, records)
            except RecordUnreadable as error:
                met = error
                break
        if records:
            self.read_through = max(self.read_through, records[-1].offset)
        if met is not None:
            self._pass_or_raise(met, is_later=bool(records))
        elif at_end or self.read_through > before:
            self._waited_seconds = 0.0
        else:
            self._waited_seconds += time.monotonic() - began
            self._raise_if_stalled()
        return records

    def close(self) -> None:
        """Closes the connections."""
        self._consumer.close()

    def _seek(self, offset: int) -> None:
        self.read_through = offset - 1
        self._waited_seconds = 0.0
        self._consumer.assign([TopicPartition(*self._place, offset)])

    def _take(self, message: Any, records: list[Record]) -> bool:
        """Handles a message of the client. Returns True if the message reports the current end of the log."""
        error, offset = message.error(), message.offset()
        if error is None:
            if next_unskipped(self._skipped, offset) > offset:
                self.read_through = offset
            else:
                records.append(record_of(message, self._max_record_bytes))
        elif error.code() == KafkaError._PARTITION_EOF:
            # The client reports the end of the log at one moment. Newer records may follow in the same
            # answer.
            self.read_through = max(self.read_through, offset - 1)
            return True
        elif error.code() in _POSITION_LOST:
            topic, partition = self._place
            raise LogIncomplete(
                f"{topic}[{partition}] no longer holds the records after offset {self.read_through}"
            )
        elif error.code() in UNREADABLE:
            last = records[-1].offset if records else self.read_through
            # The offset of the error may be that of the whole batch, and so before the unreadable record.
            raise RecordUnreadable(self._place, max(last + 1, offset), error.str())
        return False

    def _pass_or_raise(self, met: RecordUnreadable, *, is_later: bool) -> None:
        """If an operator skipped the unreadable record, continues behind it, else raises `met`.

        With `is_later`, the next `read` raises `met`.
        """
        beyond = next_unskipped(self._skipped, met.offset)
        if beyond > met.offset:
            self._seek(beyond)
            return
        self._unreadable = met
        if not is_later:
            raise met

    def _raise_if_stalled(self) -> None:
        # librdkafka 2.16 fetches a batch with a malformed record repeatedly, without an error.
        if self._waited_seconds < STALLED_SECONDS:
            return
        offset = self.read_through + 1
        try:
            _, log_end = self._consumer.get_watermark_offsets(TopicPartition(*self._place), LOG_END_SECONDS)
        except KafkaException as error:
            raise PartitionStalled(f"{self._place[0]}[{self._place[1]}]: {error.args[0].str()}") from error
        self._waited_seconds = 0.0
        if log_end <= offset:
            return
        reason = f"the broker answers, but no record arrived for {STALLED_SECONDS:.0f} s"
        self._pass_or_raise(RecordUnreadable(self._place, offset, reason), is_later=False)
