"""From what a client fetched to a record that a message can carry. Pure.

A client fetches records that no message can carry: some are too large, others have header names that are no
text. Each of them becomes a record with a flaw, so that the records beside it are not affected.
"""

import gc
from hashlib import sha256
from operator import methodcaller
from typing import Any

from sluice.kafka_io.record_types import Flaw, Headers, Record

HEADER_BYTES = 16  # of a header beside its name and its value: at least what a message needs for it

_call_headers = methodcaller("headers")


def record_of(message: Any, max_bytes: int | None) -> Record:
    """Returns the record of a message of confluent-kafka, at most so large. None: whole."""
    flaw = None
    # Where a name is not UTF-8, confluent-kafka 2.16 returns the headers, and sets an error as well. A plain
    # call in a loop that is often run does not look for it: the error then comes up somewhere else.
    try:
        headers: Headers = _call_headers(message) or []
    except (SystemError, UnicodeDecodeError):
        # Asked again, it returns them without the error. In the pair of such a header the name is no object
        # at all: what touches it ends the process. The garbage collector's view of the pair leaves it out.
        pairs = _call_headers(message)
        headers = [pair for pair in pairs if len(gc.get_referents(pair)) == len(pair)]
        flaw = Flaw(len(pairs) - len(headers))
    record = Record(message.offset(), message.timestamp()[1], message.key(), message.value(), headers, flaw)
    return bounded(record, max_bytes)


def record_of_consumed(consumed: Any, max_bytes: int | None) -> Record:
    """Returns the record of a ConsumerRecord of kafka-python, as `record_of`."""
    # By position: attribute by attribute costs half as much again.
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
    for header in record.headers:
        room -= count_bytes(Record(0, 0, None, None, [header]))
        if room < 0:
            break
        headers.append(header)
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
    # In one piece: this runs for every header that is read.
    for name, found in headers:
        size += HEADER_BYTES + (len(name) if name.isascii() else len(name.encode()))
        size += len(found) if found else 0
    return size
