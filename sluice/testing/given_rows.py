"""A row that a test puts into a table. Pure."""

from typing import Any

from sqlalchemy import Column, Table

from sluice.db.tables import shape_of
from sluice.db.values import ValueRefused
from sluice.tasks.api import Columns, EffectRefused, Version
from sluice.tasks.fold.checked_writes import version_number
from sluice.tasks.fold.versioned_row import Row


def given_row(table: Table, key: str, values: Columns, version: Version | None) -> tuple[str, Row]:
    """Returns the key and the row as an Upsert of this version leaves it, with these counters.

    Raises ValueError for an unknown column, for a value that its column cannot store, and for a null value
    in a column that is not nullable.
    """
    shape = shape_of(table)
    row: dict[str, Any] = dict(shape.defaults)
    for written, value in values.items():
        name = str(written.name) if isinstance(written, Column) else written
        if name not in row:
            raise ValueError(f"{shape.name} has no column {name!r} to give; it has {', '.join(row)}")
        row[name] = _coerced(table, name, value)
    for name in shape.required:
        if row[name] is None:
            raise ValueError(f"{shape.name}.{name} is not nullable and has no default: give a value")
    try:
        return _coerced(table, shape.key, key), Row(row, version_number(shape, version))
    except EffectRefused as refused:
        raise ValueError(f"given row of {shape.name}: {refused}") from None


def _coerced(table: Table, name: str, value: Any) -> Any:
    try:
        return shape_of(table).coercers[name](value)
    except ValueRefused as refused:
        raise ValueError(f"{table.name}.{name}: {refused}") from None
