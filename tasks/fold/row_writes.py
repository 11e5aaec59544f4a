"""One write of a handler against one row: with which version, under which key, and what it comes to. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

from sqlalchemy import Table

from sluice.db.tables import Shape, shape_of
from sluice.tasks.api import (
    Delete,
    Event,
    EventVersion,
    Increment,
    Insert,
    Merge,
    Rejected,
    Upsert,
    WriteVersion,
)
from sluice.tasks.fold import versioned_row
from sluice.tasks.fold.versioned_row import Row, WriteResult

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def apply_write(
    shape: Shape, row: Row, write: Insert | Upsert | Merge | Increment | Delete, event: Event[Any]
) -> tuple[WriteResult | None, Row]:
    """The result of a write against the row as it is, and the row after it; none: below an Increment's floor.

    Raises Rejected for a version that is missing or of the other kind.
    """
    match write:
        case Upsert(_, _, values, version):
            return versioned_row.upsert(shape, row, values, _resolved(shape, version, event))
        case Insert(_, _, values):
            return versioned_row.insert(shape, row, values, _number(shape, event.version))
        case Merge(_, _, values, version):
            return versioned_row.merge(shape, row, values, _resolved(shape, version, event))
        case Increment(_, _, deltas, floor):
            return versioned_row.increment(shape, row, deltas, floor)
        case Delete(_, _, version):
            return versioned_row.delete(shape, row, _resolved(shape, version, event))
        case _:
            assert_never(write)


def _resolved(shape: Shape, version: WriteVersion, event: Event[Any]) -> int | None:
    if version is None:
        return None
    if isinstance(version, EventVersion):
        if event.version is None:
            raise Rejected(f"the event has no version, and {shape.name} is apply_write by version")
        version = event.version
    return _number(shape, version)


def _number(shape: Shape, version: int | datetime | None) -> int | None:
    """A version as it is stored: the integer, or microseconds since 1970."""
    if version is None:
        return None
    wanted = int if shape.versions == "integer" else datetime
    if type(version) is not wanted:
        raise Rejected(f"version {version!r} where {shape.name} has versions={shape.versions!r}")
    if isinstance(version, datetime):
        if version.tzinfo is None:
            raise Rejected(f"version {version!r} has no offset")
        return (version - _EPOCH) // _MICROSECOND
    if not -(2**63) <= version < 2**63:
        raise Rejected(f"version {version} does not fit 64 bits")
    return version


def checked_key(table: Table, key: str | None) -> str:
    """The key as the table keeps it. Raises Rejected for one that it cannot."""
    if key is None:
        raise Rejected(f"no key for table {table.name}: the record's key is null or unreadable")
    shape = shape_of(table)
    checked: str = shape.coercers[shape.key](key)
    return checked


def view(shape: Shape, key: str, row: Row) -> Mapping[str, Any] | None:
    """The row as a handler reads it; None if there is none."""
    if row.values is None:
        return None
    # In declared order: an event emitted from it is the same, byte for byte, in whatever batch.
    return {
        shape.key: key,
        **{name: row.values[name] for name in shape.row_columns},
        "version": row.version,
    }
