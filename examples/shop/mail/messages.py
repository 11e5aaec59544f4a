"""What the mail server accepted: one line a message, on disk before the sender is told, and found again."""

import threading
from collections import Counter
from datetime import UTC, datetime
from email.message import EmailMessage

import msgspec

from examples.shop.outside.journal import Journal


class Message(msgspec.Struct, frozen=True):
    """Line: a message that was accepted. `to` are the envelope's recipients."""

    at: datetime
    message_id: str | None
    to: tuple[str, ...]
    subject: str | None
    key: str | None


class Mailbag:
    """Messages in the order of acceptance. For any threads."""

    def __init__(self, journal: Journal[Message]) -> None:
        self._journal = journal
        self._messages = list(journal.lines())
        self._received: Counter[str | None] = Counter()
        self._lock = threading.Lock()

    def receive(self, message_id: str | None) -> None:
        """A message has come and is not decided yet: until `decide`, nobody can say that it will not be."""
        with self._lock:
            self._received[message_id] += 1

    def decide(self, message_id: str | None) -> None:
        """The end of `receive`: it was accepted or not."""
        with self._lock:
            self._received[message_id] -= 1

    def accept(self, message: EmailMessage, recipients: list[str]) -> None:
        """On disk and found by others when this returns."""
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
        """Messages of an id, or all; and whether one of that id is not decided yet."""
        with self._lock:
            found = [m for m in self._messages if message_id in (None, m.message_id)]
            return found, self._received[message_id] > 0


def header(message: EmailMessage, name: str) -> str | None:
    """A header's plain text; None without it."""
    value = message[name]
    return None if value is None else str(value)
