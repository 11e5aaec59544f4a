"""Parses the header of a record batch, which is never compressed. Pure."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

LOG_OVERHEAD = 12  # offset and length, the first fields of a batch of any format
MAGIC_OFFSET = 16
FORMAT = 2  # the format of every batch since Kafka 0.11
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
_CODEC_MASK, _CONTROL = 0x07, 0x20
# The fields from the attributes to the number of records.
_HEADER = struct.Struct(">hiqqqhii")
_HEADER_OFFSET = 21
_PLACE = struct.Struct(">qi")


class BatchHeader(NamedTuple):
    """The header of one batch. A field is None if this module does not support the format of the batch."""

    first_offset: int
    last_offset: int | None
    records: int | None
    timestamp_ms: int | None
    """The highest time of a record of the batch."""
    codec: str
    is_control: bool
    """True if the batch is a marker that ends a transaction."""


def split_batches(data: bytes) -> list[bytes]:
    """Returns the complete batches in the data of a fetch."""
    found: list[bytes] = []
    at = 0
    while at + LOG_OVERHEAD <= len(data):
        _, length = _PLACE.unpack_from(data, at)
        end = at + LOG_OVERHEAD + length
        if length < MAGIC_OFFSET + 1 - LOG_OVERHEAD or end > len(data):
            break
        found.append(data[at:end])
        at = end
    return found


def read_header(batch: bytes) -> BatchHeader:
    """Returns the header of the batch."""
    first, _ = _PLACE.unpack_from(batch)
    magic = batch[MAGIC_OFFSET]
    if magic != FORMAT or len(batch) < _HEADER_OFFSET + _HEADER.size:
        return BatchHeader(first, None, None, None, f"unknown format {magic}", False)
    attributes, delta, _, timestamp_ms, *_, records = _HEADER.unpack_from(batch, _HEADER_OFFSET)
    number = attributes & _CODEC_MASK
    codec = CODECS[number] if number < len(CODECS) else f"unknown codec {number}"
    return BatchHeader(first, first + delta, records, timestamp_ms, codec, bool(attributes & _CONTROL))


class UnopenedRecords(NamedTuple):
    """Records of one batch, from the first record that cannot be read to the end of the batch."""

    passed_from: int
    """The offset at which reading stopped. No record has an offset from this one up to `first_offset`."""
    first_offset: int
    last_offset: int
    records: int
    timestamp_ms: int
    codec: str


def find_unopened(
    headers: Sequence[BatchHeader], unreadable_offset: int, *, log_end: int
) -> UnopenedRecords | None:
    """Returns the records to skip so that reading can continue after the unreadable offset.

    `headers` are the headers of consecutive batches. Returns None if all batches end before the offset. A
    client reads a batch from its beginning, so it cannot read the records behind an unreadable record of the
    same batch. The header may be damaged, so its last offset is used only if it is below the next batch and
    the end of the log.
    """
    for header, after in zip(headers, [*headers[1:], None], strict=False):
        limit = log_end - 1 if after is None else after.first_offset - 1
        said = header.last_offset
        last = said if said is not None and header.first_offset <= said <= limit else limit
        if header.is_control or last < unreadable_offset:
            continue
        first = max(unreadable_offset, header.first_offset)
        span = last - first + 1
        is_whole = unreadable_offset <= header.first_offset and last == said
        records = header.records if is_whole and header.records and 0 < header.records <= span else span
        return UnopenedRecords(
            unreadable_offset, first, last, records, header.timestamp_ms or 0, header.codec
        )
    return None
