"""From what a client fetched to a record that a message can carry. Pure.

A client fetches records that no message can carry: some are too large, others have header names that are no
text. Each of them becomes a record with a flaw, so that the records beside it are not affected.
"""

import gc
from hashlib import sha256
from typing import Any

from sluice.kafka_io.record_types import Flaw, Headers, Record

HEADER_BYTES = 16  # of a header beside its name and its value: at least what a message needs for it


def record_of(message: Any, max_bytes: int | None) -> Record:
    """Returns the record of a message of confluent-kafka, at most so large. None: whole."""
    headers, unreadable = _read_headers(message)
    flaw = Flaw(unreadable) if unreadable else None
    record = Record(message.offset(), message.timestamp()[1], message.key(), message.value(), headers, flaw)
    return bounded(record, max_bytes)


def record_of_consumed(consumed: Any, max_bytes: int | None) -> Record:
    """Returns the record of a ConsumerRecord of kafka-python, as `record_of`."""
    # By position: attribute by attribute costs half as much again.
    _, _, _, offset, timestamp, _, key, value, headers, *_ = consumed
    flaw = None
    if headers:
        readable = [header for header in headers if _is_text(header[0])]
        if len(readable) < len(headers):
            flaw = Flaw(len(headers) - len(readable))
        headers = readable
    return bounded(Record(offset, timestamp, key, value, headers, flaw), max_bytes)


def bounded(record: Record, max_bytes: int | None) -> Record:
    """Returns the record if it has at most so many bytes; else without its value, with size and SHA-256.

    Of a key and headers that are together over the limit, it keeps the beginning: of the key its first
    bytes, then the first headers, each of them whole.
    """
    if max_bytes is None:
        return record
    size = count_bytes(record)
    if size <= max_bytes:
        return record
    key = None if record.key is None else record.key[:max_bytes]
    headers: Headers = []
    room = max_bytes - len(key or b"")
    for name, value in record.headers:
        room -= _header_bytes(name, value)
        if room < 0:
            break
        headers.append((name, value))
    unreadable = record.flaw.unreadable_headers if record.flaw else 0
    flaw = Flaw(unreadable, size, sha256(record.value or b"").digest())
    return record._replace(key=key, value=None, headers=headers, flaw=flaw)


def is_whole_of(whole: Record, cut: Record) -> bool:
    """Returns True if the one record is the other one whole: by time, key, and SHA-256 of the value."""
    assert cut.flaw is not None
    same_key = (whole.key is None) == (cut.key is None) and (whole.key or b"").startswith(cut.key or b"")
    same_place = (whole.offset, whole.timestamp_ms) == (cut.offset, cut.timestamp_ms)
    return same_place and same_key and sha256(whole.value or b"").digest() == cut.flaw.sha256


def count_bytes(record: Record) -> int:
    """Returns the bytes of key, headers and value, with HEADER_BYTES for each header."""
    _, _, key, value, headers, _ = record
    size = (len(key) if key else 0) + (len(value) if value else 0)
    for name, header_value in headers:
        size += _header_bytes(name, header_value)
    return size


def _header_bytes(name: str, value: bytes | None) -> int:
    name_bytes = len(name) if name.isascii() else len(name.encode())
    return HEADER_BYTES + name_bytes + (len(value) if value else 0)


def _read_headers(message: Any) -> tuple[Headers, int]:
    """Returns the headers whose names can be read, and the number of the others."""
    try:
        return message.headers() or [], 0
    except (UnicodeDecodeError, SystemError):
        pass
    # confluent-kafka 2.16 raises for a name that is not UTF-8, but it has read all headers by then, and
    # returns them when it is asked again. In the pair of such a header the name is no object at all: what
    # touches it ends the process. The garbage collector's view of the pair leaves it out.
    try:
        pairs = message.headers()
    except (UnicodeDecodeError, SystemError):
        return [], 1
    readable = [pair for pair in pairs if len(gc.get_referents(pair)) == len(pair)]
    return readable, len(pairs) - len(readable)


def _is_text(name: str) -> bool:
    """Returns False for a name that `header_names` read from bytes that are not UTF-8."""
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
