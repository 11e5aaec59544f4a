"""Applies one checked write to one row, and makes the row that a handler reads. Pure."""

from collections.abc import Mapping
from typing import Any, assert_never, cast

from sluice.db.tables import Shape
from sluice.tasks.api import Delete, Event, Increment, Insert, Merge, Upsert
from sluice.tasks.events.payload import copied_json
from sluice.tasks.fold import versioned_row
from sluice.tasks.fold.checked_writes import version_number
from sluice.tasks.fold.versioned_row import Row, WriteResult


def apply_write(
    shape: Shape, row: Row, write: Insert | Upsert | Merge | Increment | Delete, event: Event[Any]
) -> tuple[WriteResult | None, Row]:
    """Applies a checked write to a row. Returns the result and the new row.

    The result is None if a sum is below an Increment's floor. Raises ValueRefused for a sum that its column
    cannot hold.
    """
    match write:
        case Upsert(_, _, values, version):
            return versioned_row.upsert(shape, row, values, cast("int | None", version))
        case Insert(_, _, values):
            return versioned_row.insert(shape, row, values, version_number(shape, event.version))
        case Merge(_, _, values, version):
            return versioned_row.merge(shape, row, values, cast("int | None", version))
        case Increment(_, _, deltas, floor):
            return versioned_row.increment(shape, row, deltas, floor)
        case Delete(_, _, version):
            return versioned_row.delete(shape, row, cast("int | None", version))
        case _:
            assert_never(write)


def view(shape: Shape, key: str, row: Row) -> Mapping[str, Any] | None:
    """Returns a copy of the row for a handler, None if there is no row."""
    if row.values is None:
        return None
    # In declared order, so that an event that is emitted from the row has the same bytes in every batch.
    seen = {shape.key: key, **{name: row.values[name] for name in shape.row_columns}, "version": row.version}
    for name in shape.json_columns:
        seen[name] = copied_json(seen[name])
    return seen
