"""Defines when two records have the same event, content or entity: by hashes and by the readable key."""

from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from uuid import UUID

import msgspec

from sluice.tasks.api import Version
from sluice.tasks.events.envelope import MAX_CHARACTERS

# One tag per kind, so that no two kinds can have the same input.
_EVENT = b"E"
_RECORD = b"R"
_CONTENT = b"C"
_RAW = b"V"

_length = Struct(">q").pack

_NULL = _length(-1)
"""Replaces the length of a missing part, so that null differs from empty."""

# msgspec makes a UUID from bytes five times faster than uuid.UUID(). This is the msgpack header of 16 bytes.
_to_uuid = msgspec.msgpack.Decoder(UUID).decode
_BIN_16 = b"\xc4\x10"


def event_identity(topic: str, source: str | None, key: bytes | None, event_id: str) -> UUID:
    """Returns the identity of an event that has an id."""
    id_bytes = event_id.encode()
    hasher = _event_hash(topic, source).copy()
    if key is None:
        hasher.update(_NULL + _length(len(id_bytes)) + id_bytes)
    else:
        hasher.update(_length(len(key)) + key + _length(len(id_bytes)) + id_bytes)
    return _to_uuid(_BIN_16 + hasher.digest())


def record_identity(topic_id: str, partition: int, offset: int) -> UUID:
    """Returns the identity of a record whose event id is missing or ignored: topic, partition and offset.

    Only a redelivery of the record has the same identity.
    """
    return _hash(_RECORD, topic_id.encode(), b"%d" % partition, b"%d" % offset)


def hash_content(type_: str, version: Version | None, canonical_data: bytes) -> UUID:
    """Hashes the content that repeats of an event share. Omits headers and times, which may differ."""
    hasher = _content_hash(type_).copy()
    hasher.update(_NULL if version is None else _framed(str(version).encode()))
    hasher.update(_length(len(canonical_data)) + canonical_data)
    return _to_uuid(_BIN_16 + hasher.digest())


def hash_raw(value: bytes | None) -> UUID:
    """Hashes the content of a record that cannot be decoded."""
    return _hash(_RAW, value)


def read_key(key: bytes | None) -> str | None:
    """Returns the entity key of a record key; None if it is null, not UTF-8, too long or contains NUL."""
    if key is None:
        return None
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return None
    return None if len(text) > MAX_CHARACTERS or "\0" in text else text


def uuid_of(digest: bytes) -> UUID:
    """Returns the UUID of 16 bytes."""
    return _to_uuid(_BIN_16 + digest)


@lru_cache(maxsize=1_000)
def _event_hash(topic: str, source: str | None) -> blake2b:
    return _begin(_EVENT + _framed(topic.encode()) + _framed(None if source is None else source.encode()))


@lru_cache(maxsize=1_000)
def _content_hash(type_: str) -> blake2b:
    return _begin(_CONTENT + _framed(type_.encode()))


def _hash(tag: bytes, *parts: bytes | None) -> UUID:
    return uuid_of(_begin(tag + b"".join(map(_framed, parts))).digest())


def _framed(part: bytes | None) -> bytes:
    # Without the lengths, ("ab", "c") and ("a", "bc") would count as one event, and one would be lost.
    return _NULL if part is None else _length(len(part)) + part


def _begin(text: bytes) -> blake2b:
    return blake2b(text, digest_size=16)
