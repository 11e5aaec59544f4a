"""Records read from Kafka and sent to it, and the delivery of a sent one."""

from enum import Enum
from typing import NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

# Measured: the tuple, its numbers, the headers of its strings, and its slot in a list; a test compares.
RECORD_BYTES = 384
HEADER_BYTES = 160

Headers: TypeAlias = list[tuple[str, bytes | None]]


class Flaw(NamedTuple):
    """The omitted parts of a record. Such a record is not applied, but becomes a dead letter."""

    unreadable_headers: int = 0
    """The number of headers omitted because their names are not UTF-8."""
    size_bytes: int = 0
    """The size of key, headers and value in Kafka, if the record was over the limit; else 0."""
    sha256: bytes = b""
    """The SHA-256 of the omitted value; of no bytes if the value is null."""

    @property
    def is_cut(self) -> bool:
        """Returns True if the record was over the limit, so that only Kafka has it whole."""
        return self.size_bytes > 0


class Record(NamedTuple):
    """One Kafka record, undecoded. Times are milliseconds since 1970 (UTC), as in Kafka."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    flaw: Flaw | None = None


def size_bytes(record: Record) -> int:
    """Returns the bytes that a record takes in memory: its content, and Python's objects around it.

    A record in a message is smaller. Every bound on bytes counts records by this function.
    """
    key, value, headers = record.key, record.value, record.headers
    size = RECORD_BYTES + (len(key) if key else 0) + (len(value) if value else 0)
    for name, content in headers:
        size += HEADER_BYTES + (len(name) if name.isascii() else 4 * (len(name) + 8))
        if content:
            size += len(content)
    return size


class OutgoingRecord(NamedTuple):
    """A record to send. The same row gives the same record, byte for byte; texts are sent as UTF-8."""

    topic: str
    key: str | None
    value: bytes
    headers: dict[str, str | bytes | None]


class Delivery(Enum):
    """The delivery of a record that was given to the producer."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"  # the broker refuses it in this batch, or in any
    AWAY = "away"  # unknown; the row stays and is sent again, with the same id


Answer: TypeAlias = tuple[T, Delivery, str]
"""The answer for a record: its token, its delivery, and the error if it was not acknowledged."""
