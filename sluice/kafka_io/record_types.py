"""Records that are read from Kafka, records that are sent to Kafka, and the results of sending."""

from enum import Enum
from typing import NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

# A measured value for the tuple, its numbers, the overhead of its strings, and its slot in a list. A test
# checks it.
RECORD_BYTES = 384
HEADER_BYTES = 160

Headers: TypeAlias = list[tuple[str, bytes | None]]


class Flaw(NamedTuple):
    """The omitted parts of a record. A record with a flaw is not applied, but becomes a dead letter."""

    unreadable_headers: int = 0
    """The number of headers omitted because their names are not UTF-8."""
    size_bytes: int = 0
    """The size of key, headers and value in Kafka, if the record was over the limit; else 0."""
    sha256: bytes = b""
    """The SHA-256 of the omitted value. If the value is null, this is the SHA-256 of no bytes."""

    @property
    def is_cut(self) -> bool:
        """Returns True if the record was over the limit. Then only Kafka has the whole record."""
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
    """Returns the size of a record in memory: its content, and the Python objects around it.

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
    """A record to send. A row always gives the same record, byte for byte. Texts are sent as UTF-8."""

    topic: str
    key: str | None
    value: bytes
    headers: dict[str, str | bytes | None]


class Delivery(Enum):
    """The result of sending a record."""

    ACKNOWLEDGED = "acknowledged"
    # The broker refuses the record, perhaps only because of other records in the same batch.
    REFUSED = "refused"
    AWAY = "away"  # the result is unknown; the row is kept and is sent again with the same id


Answer: TypeAlias = tuple[T, Delivery, str]
"""The answer for a record: its token, its delivery, and the error if it was not acknowledged."""
