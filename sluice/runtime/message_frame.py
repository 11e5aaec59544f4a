"""The signed form of every Celery message of Sluice. Pure.

    MAC (32 bytes) · format version (1 byte) · installation id (16 bytes) · content

The MAC is a keyed blake2b hash of all bytes behind the MAC. In every format, MAC and version have the same
position, and the MAC covers the same bytes. Therefore a receiver checks the MAC before it reads anything
else.
"""

import hmac
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

MAC_BYTES = 32
HEAD_BYTES = MAC_BYTES + 1 + 16

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The size limit of a message as it is stored in Redis.

The limit is part of the format and not a setting. No publisher makes a larger message, and a receiver drops a
larger message unread.
"""


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
    """Returns the content of the message; None if the message was signed with none of the keys."""
    if len(message) < HEAD_BYTES:
        return None
    mac, signed = message[:MAC_BYTES], memoryview(message)[MAC_BYTES:]
    for key in keys:
        if hmac.compare_digest(mac, blake2b(signed, digest_size=MAC_BYTES, key=key).digest()):
            return Frame(signed[0], UUID(bytes=bytes(signed[1:17])), message[HEAD_BYTES:])
    return None
