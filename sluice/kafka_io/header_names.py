"""Lets kafka-python read records whose header names are not UTF-8.

For such a name, kafka-python 3.0.12 raises an error and drops the whole batch. Its position never advances
past that batch.
"""

from typing import Any, SupportsIndex

from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch


class UnreadableName(str):
    """A placeholder for a name that is not UTF-8."""


def accept_any_header_name() -> None:
    """Makes consumers return an UnreadableName for a name that is not UTF-8. Idempotent."""
    memory_records.DefaultRecordBatch = _Batch


class _Batch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch that accepts names that are not UTF-8: it parses a record with such a name a second time."""

    _buffer: bytearray

    def _read_msg(self, *decoders: Any) -> Any:
        try:
            return super()._read_msg(*decoders)
        except UnicodeDecodeError:
            # No part of this record was returned yet. The copy is used for all later records of the batch.
            self._buffer = _AnyNames(self._buffer)
            return super()._read_msg(*decoders)


class _AnyNames(bytearray):
    """Bytes whose slices always decode to text. The parser decodes only names."""

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        return _AnyName(found) if isinstance(found, bytearray) else found


class _AnyName(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        try:
            return super().decode(encoding, errors)
        except UnicodeDecodeError:
            return UnreadableName(super().decode(encoding, "replace"))
