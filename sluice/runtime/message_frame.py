"""The signed form of every Celery message of Sluice. Pure.

    MAC (32 bytes) · format version (1 byte) · installation id (16 bytes) · content

The MAC is keyed blake2b over all that follows it. The places of MAC and version, and what the MAC covers, are
the same in every format, so a receiver checks the MAC before it reads anything else.
"""

import hmac
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

MAC_BYTES = 32
HEAD_BYTES = MAC_BYTES + 1 + 16

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The limit of a message as it is stored in Redis. It is part of the format: no publisher makes a larger
message, and a receiver drops a larger one unread, independent of its settings."""


class Frame(NamedTuple):
    """The content of a signed message."""

    version: int
    installation: UUID
    content: bytes


def seal(key: bytes, frame: Frame) -> bytes:
    """Returns the signed message. `version` is from 1 to 255."""
    signed = bytes((frame.version,)) + frame.installation.bytes + frame.content
    return blake2b(signed, digest_size=MAC_BYTES, key=key).digest() + signed


def open_frame(keys: Iterable[bytes], message: bytes) -> Frame | None:
    """Returns the content of the message; None if none of the keys signed it."""
    if len(message) < HEAD_BYTES:
        return None
    mac, signed = message[:MAC_BYTES], memoryview(message)[MAC_BYTES:]
    for key in keys:
        if hmac.compare_digest(mac, blake2b(signed, digest_size=MAC_BYTES, key=key).digest()):
            return Frame(signed[0], UUID(bytes=bytes(signed[1:17])), message[HEAD_BYTES:])
    return None
