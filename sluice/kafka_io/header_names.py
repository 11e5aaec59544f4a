"""Lets kafka-python read records whose header names are not UTF-8.

kafka-python 3.0.12 raises for such a name, drops the batch, and never advances past it.
"""

from typing import Any, SupportsIndex

from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch


class UnreadableName(str):
    """A placeholder for a name that is not UTF-8."""


def accept_any_header_name() -> None:
    """Makes the consumers of this process return an UnreadableName for such a name. Idempotent."""
    memory_records.DefaultRecordBatch = _Batch


class _Batch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch that parses a record again, with another decoder of names, if a name is not UTF-8."""

    _buffer: bytearray

    def _read_msg(self, *decoders: Any) -> Any:
        try:
            return super()._read_msg(*decoders)
        except UnicodeDecodeError:
            # Nothing of this record has been returned yet. One copy is used for the rest of the batch.
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
