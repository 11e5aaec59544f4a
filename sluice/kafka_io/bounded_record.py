"""Converts a fetched record to one that a message can carry. Pure.

A client fetches records that no message can carry: some are too large, others have header names that are not
text. Each such record is reduced to a record with a `Flaw`, and the other records stay unchanged.
"""

import gc
from hashlib import sha256
from operator import methodcaller
from typing import Any

from sluice.kafka_io.record_types import Flaw, Headers, Record

HEADER_BYTES = 16  # counted per header in addition to its name and value; a message needs no more than this

_call_headers = methodcaller("headers")


def record_of(message: Any, max_bytes: int | None) -> Record:
    """Returns the record of a message of confluent-kafka, reduced to `max_bytes` (None: no limit)."""
    flaw = None
    # For a header name that is not UTF-8, confluent-kafka 2.16 returns the headers and also sets an error.
    # After a plain call in a hot loop, CPython may not check for that error. The error would then be raised
    # later, by other code.
    try:
        headers: Headers = _call_headers(message) or []
    except (SystemError, UnicodeDecodeError):
        # A second call returns the headers without the error. In the pair of a header with such a name, the
        # name is not a Python object, and any access to the name crashes the process. `gc.get_referents`
        # omits the name, so it shows which pairs are damaged.
        pairs = _call_headers(message)
        headers = [pair for pair in pairs if len(gc.get_referents(pair)) == len(pair)]
        flaw = Flaw(len(pairs) - len(headers))
    record = Record(message.offset(), message.timestamp()[1], message.key(), message.value(), headers, flaw)
    return bounded(record, max_bytes)


def record_of_consumed(consumed: Any, max_bytes: int | None) -> Record:
    """Returns the record of a ConsumerRecord of kafka-python, like `record_of`."""
    # Fields are read by position, because access by attribute costs 1.5 times as much.
    _, _, _, offset, timestamp, _, key, value, headers, *_ = consumed
    flaw = None
    if headers:
        # A name that is not UTF-8 is an `UnreadableName` (see `header_names`) and not a str.
        readable = [header for header in headers if type(header[0]) is str]
        if len(readable) < len(headers):
            flaw = Flaw(len(headers) - len(readable))
        headers = readable
    return bounded(Record(offset, timestamp, key, value, headers or [], flaw), max_bytes)


def bounded(record: Record, max_bytes: int | None) -> Record:
    """Returns the record unchanged if it is within the limit, else a record without the value.

    A record without its value has a `Flaw` with the size and the SHA-256 of the value.

    If key and headers together exceed the limit, the record keeps the first bytes of the key, and then as
    many whole headers as fit.
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
    """Returns True if `whole` is the record that was reduced to the other one.

    Compares time, key and SHA-256.
    """
    assert cut.flaw is not None
    same_key = (whole.key is None) == (cut.key is None) and (whole.key or b"").startswith(cut.key or b"")
    same_place = (whole.offset, whole.timestamp_ms) == (cut.offset, cut.timestamp_ms)
    return same_place and same_key and sha256(whole.value or b"").digest() == cut.flaw.sha256


def count_bytes(record: Record) -> int:
    """Returns the bytes of key, headers and value, with HEADER_BYTES for each header."""
    _, _, key, value, headers, _ = record
    size = (len(key) if key else 0) + (len(value) if value else 0)
    # One expression is fastest, and this runs for every header.
    for name, found in headers:
        size += HEADER_BYTES + (len(name) if name.isascii() else len(name.encode()))
        size += len(found) if found else 0
    return size
