"""The log of the mail server: one line per accepted message, which is on disk before the server replies."""

import threading
from collections import Counter
from datetime import UTC, datetime
from email.message import EmailMessage

import msgspec

from examples.shop.outside.journal import Journal


class Message(msgspec.Struct, frozen=True):
    """The line of an accepted message. `to` contains the envelope's recipients."""

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
        """Notes a received message, which is undecided until `decide` is called."""
        with self._lock:
            self._received[message_id] += 1

    def decide(self, message_id: str | None) -> None:
        """Notes that a received message was accepted or refused."""
        with self._lock:
            self._received[message_id] -= 1

    def accept(self, message: EmailMessage, recipients: list[str]) -> None:
        """Stores the message. When this returns, the message is on disk and `find` returns it."""
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
        """Returns the messages with this id (None: all), and True if a message with this id is undecided."""
        with self._lock:
            found = [m for m in self._messages if message_id in (None, m.message_id)]
            return found, self._received[message_id] > 0


def header(message: EmailMessage, name: str) -> str | None:
    """Returns a header's plain text; None if it is missing."""
    value = message[name]
    return None if value is None else str(value)
