"""Converts a fetched record to one that a message can carry. Pure.

A client fetches records that no message can carry: some are too large, others have header names that are not
text. Each of them becomes a record with a flaw, so that the records beside it are not affected.
"""

import gc
from hashlib import sha256
from operator import methodcaller
from typing import Any

from sluice.kafka_io.record_types import Flaw, Headers, Record

HEADER_BYTES = 16  # per header, in addition to name and value: at least the overhead in a message

_call_headers = methodcaller("headers")


def record_of(message: Any, max_bytes: int | None) -> Record:
    """Returns the record of a message of confluent-kafka, reduced to the limit (None: no limit)."""
    flaw = None
    # For a name that is not UTF-8, confluent-kafka 2.16 returns the headers and also sets an error. CPython
    # may not check for it after a plain call in a hot loop: then the error is raised at another place.
    try:
        headers: Headers = _call_headers(message) or []
    except (SystemError, UnicodeDecodeError):
        # A second call returns them without the error. In the pair of such a header the name is not an
        # object: any access to it ends the process. The garbage collector's view of the pair omits it.
        pairs = _call_headers(message)
        headers = [pair for pair in pairs if len(gc.get_referents(pair)) == len(pair)]
        flaw = Flaw(len(pairs) - len(headers))
    record = Record(message.offset(), message.timestamp()[1], message.key(), message.value(), headers, flaw)
    return bounded(record, max_bytes)


def record_of_consumed(consumed: Any, max_bytes: int | None) -> Record:
    """Returns the record of a ConsumerRecord of kafka-python, like `record_of`."""
    # By position, since access by attribute costs 1.5 times as much.
    _, _, _, offset, timestamp, _, key, value, headers, *_ = consumed
    flaw = None
    if headers:
        # Another type, `header_names.UnreadableName`, stands for a name that is not UTF-8.
        readable = [header for header in headers if type(header[0]) is str]
        if len(readable) < len(headers):
            flaw = Flaw(len(headers) - len(readable))
        headers = readable
    return bounded(Record(offset, timestamp, key, value, headers or [], flaw), max_bytes)


def bounded(record: Record, max_bytes: int | None) -> Record:
    """Returns the record if it is within the limit; else without its value, with size and SHA-256.

    If key and headers together exceed the limit, the record keeps the first bytes of the key, then the first
    headers, each of them whole.
    """
    if max_bytes is None:
        return record
    size = count_bytes(record)
    if size <= max_bytes:
        return record
    key = None if record.key is None else record.key[:max_bytes]
    headers: Headers = []
    room = max_bytes - len(key or b"")
    for header in record.headers:
        room -= count_bytes(Record(0, 0, None, None, [header]))
        if room < 0:
            break
        headers.append(header)
    unreadable = record.flaw.unreadable_headers if record.flaw else 0
    flaw = Flaw(unreadable, size, sha256(record.value or b"").digest())
    return record._replace(key=key, value=None, headers=headers, flaw=flaw)


def is_whole_of(whole: Record, cut: Record) -> bool:
    """Returns True if one record is the whole form of the other, by time, key, and SHA-256 of the value."""
    assert cut.flaw is not None
    same_key = (whole.key is None) == (cut.key is None) and (whole.key or b"").startswith(cut.key or b"")
    same_place = (whole.offset, whole.timestamp_ms) == (cut.offset, cut.timestamp_ms)
    return same_place and same_key and sha256(whole.value or b"").digest() == cut.flaw.sha256


def count_bytes(record: Record) -> int:
    """Returns the bytes of key, headers and value, with HEADER_BYTES for each header."""
    _, _, key, value, headers, _ = record
    size = (len(key) if key else 0) + (len(value) if value else 0)
    # One expression, since this runs for every header.
    for name, found in headers:
        size += HEADER_BYTES + (len(name) if name.isascii() else len(name.encode()))
        size += len(found) if found else 0
    return size
