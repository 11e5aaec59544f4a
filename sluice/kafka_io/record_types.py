"""Records as they come from Kafka and go to it, and what became of one that was sent."""

from enum import Enum
from typing import NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

# Measured: the tuple, its numbers, the heads of its strings, and its place where it is held; a test compares.
RECORD_BYTES = 384
HEADER_BYTES = 160

Headers: TypeAlias = list[tuple[str, bytes | None]]


class Flaw(NamedTuple):
    """What of a record is not carried. Such a record is never applied as it is: it becomes a dead letter."""

    unreadable_headers: int = 0
    """Headers that were left out because their names are not UTF-8."""
    size_bytes: int = 0
    """Key, headers and value as Kafka holds them, if the record was over the limit; else 0."""
    sha256: bytes = b""
    """Of the value that was left out; of no bytes if the value is null."""

    @property
    def is_cut(self) -> bool:
        """Returns True if the record was over the limit: Kafka alone holds it whole."""
        return self.size_bytes > 0


class Record(NamedTuple):
    """One Kafka record, undecoded. Times are milliseconds since 1970 (UTC), as Kafka keeps them."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    flaw: Flaw | None = None


def size_bytes(record: Record) -> int:
    """Returns the bytes that a record takes in memory: what it holds, and Python's objects around it.

    In a message it takes less. Every bound on bytes counts records by this function.
    """
    key, value, headers = record.key, record.value, record.headers
    size = RECORD_BYTES + (len(key) if key else 0) + (len(value) if value else 0)
    for name, content in headers:
        size += HEADER_BYTES + (len(name) if name.isascii() else 4 * (len(name) + 8))
        if content:
            size += len(content)
    return size


class OutgoingRecord(NamedTuple):
    """What is produced. The same row gives the same record, byte for byte; texts are sent as UTF-8."""

    topic: str
    key: str | None
    value: bytes
    headers: dict[str, str | bytes | None]


class Delivery(Enum):
    """What became of a record that was handed to the producer."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"  # the broker wants it in no company, or not at all
    AWAY = "away"  # nobody knows; it stays and is sent again, with the same id


Answer: TypeAlias = tuple[T, Delivery, str]
"""What became of a record: what it was sent for, its delivery, and the error if it was not acknowledged."""
