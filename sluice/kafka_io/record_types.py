"""Records as they come from Kafka and go to it, and what became of one that was sent."""

from enum import Enum
from typing import NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

Headers: TypeAlias = list[tuple[str, bytes | None]]


class Record(NamedTuple):
    """One Kafka record, undecoded. Times are milliseconds since 1970 (UTC), as Kafka keeps them."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    def size_bytes(self) -> int:
        """Bytes this record adds to a message, near enough for the bounds."""
        return len(self.key or b"") + len(self.value or b"") + 64 * (1 + len(self.headers))


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
