"""The log of the mail server: one line per accepted message, on disk before the sender gets the reply."""

import threading
from collections import Counter
from datetime import UTC, datetime
from email.message import EmailMessage

import msgspec

from examples.shop.outside.journal import Journal


class Message(msgspec.Struct, frozen=True):
    """A line for an accepted message. `to` are the envelope's recipients."""

    at: datetime
    message_id: str | None
    to: tuple[str, ...]
    subject: str | None
    key: str | None


class Mailbag:
    """The messages in the order of acceptance. Thread-safe."""

    def __init__(self, journal: Journal[Message]) -> None:
        self._journal = journal
        self._messages = list(journal.lines())
        self._received: Counter[str | None] = Counter()
        self._lock = threading.Lock()

    def receive(self, message_id: str | None) -> None:
        """Notes a message that is not decided yet: until `decide`, it may still be accepted."""
        with self._lock:
            self._received[message_id] += 1

    def decide(self, message_id: str | None) -> None:
        """Notes that a message was accepted or not, after `receive`."""
        with self._lock:
            self._received[message_id] -= 1

    def accept(self, message: EmailMessage, recipients: list[str]) -> None:
        """Stores the message. It is on disk, and others find it, when this returns."""
        accepted = Message(
            at=datetime.now(UTC),
            message_id=header(message, "Message-ID"),
            to=tuple(recipients),
            subject=header(message, "Subject"),
            key=header(message, "X-Idempotency-Key"),
        )
        with self._lock:
            self._journal.append(accepted)
            self._messages.append(accepted)

    def find(self, *, message_id: str | None) -> tuple[list[Message], bool]:
        """Returns the messages with an id, or all, and True if one with that id is not decided yet."""
        with self._lock:
            found = [m for m in self._messages if message_id in (None, m.message_id)]
            return found, self._received[message_id] > 0


def header(message: EmailMessage, name: str) -> str | None:
    """Returns a header's plain text; None if it is missing."""
    value = message[name]
    return None if value is None else str(value)
