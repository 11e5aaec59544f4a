"""Checks a yielded write or Read, and converts its key, columns and version to the table's types. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Column, Table

from sluice.db.tables import Shape, TableRefused, shape_of
from sluice.db.values import Coercer, ValueRefused
from sluice.tasks.api import (
    Delete,
    EffectRefused,
    Event,
    EventVersion,
    Increment,
    Insert,
    Merge,
    Read,
    Upsert,
    WriteVersion,
)
from sluice.tasks.fold.registry import AnyEntry, ProjectionEntry
from sluice.tasks.fold.versionless import versionless_problem

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def checked_insert(entry: AnyEntry, event: Event[Any], write: Insert) -> Insert:
    """Returns the Insert with all fields of its table; omitted fields have their defaults."""
    shape, key = _target(entry, write)
    given = _checked_fields(shape, write)
    version_number(shape, event.version)
    if len(given) == len(shape.fields):
        return Insert(write.table, key, given)
    fields = {name: given[name] if name in given else shape.defaults[name] for name in shape.fields}
    empty = [name for name in shape.fields if fields[name] is None and name in shape.required]
    if empty:
        raise EffectRefused(
            f"Insert into {shape.name} leaves out {', '.join(empty)}; a column is required if it is not"
            " nullable and has no default"
        )
    return Insert(write.table, key, fields)


def checked_upsert(entry: AnyEntry, event: Event[Any], write: Upsert) -> Upsert:
    """Returns the Upsert. Raises EffectRefused if it omits a column: an Upsert writes the whole row."""
    shape, key = _target(entry, write)
    fields = _checked_fields(shape, write)
    if len(fields) != len(shape.fields):
        missing = [name for name in shape.fields if name not in fields]
        merge = "Merge" if shape.merged else "Merge and declare the table with merged=True"
        raise EffectRefused(
            f"Upsert of {shape.name} leaves out {', '.join(missing)}: an Upsert writes every column;"
            f" write the value, the default or None, or use {merge} to keep the stored values"
        )
    return Upsert(write.table, key, fields, _resolved(entry, shape, write.version, event))


def checked_merge(entry: AnyEntry, event: Event[Any], write: Merge) -> Merge:
    """Returns the Merge. Raises EffectRefused if its table is declared without merged=True."""
    shape, key = _target(entry, write)
    if not shape.merged:
        raise EffectRefused(f"Merge into {shape.name}, which is declared without merged=True")
    fields = _checked_fields(shape, write)
    return Merge(write.table, key, fields, _resolved(entry, shape, write.version, event))


def checked_delete(entry: AnyEntry, event: Event[Any], write: Delete) -> Delete:
    """Returns the Delete. Raises EffectRefused if rows of its table cannot be deleted."""
    shape, key = _target(entry, write)
    if not shape.deletable:
        raise EffectRefused(f"Delete from {shape.name}, which is declared without deletable=True")
    return Delete(write.table, key, _resolved(entry, shape, write.version, event))


def checked_read(entry: AnyEntry, _event: Event[Any], read: Read) -> Read:
    """Returns the Read."""
    return Read(read.table, _target(entry, read)[1])


def checked_increment(entry: AnyEntry, write: Increment) -> Increment:
    """Returns the Increment, with `otherwise` unchecked. Raises EffectRefused if it adds to no counter."""
    shape, key = _target(entry, write)
    deltas: dict[str, Any] = {}
    for name, delta in _named(write.table, "deltas", write.deltas):
        if name not in shape.counters:
            raise EffectRefused(f"Increment of {shape.name}.{name}, which is not declared in counters=")
        deltas[name] = _coerced(shape, name, delta, shape.coercers[name])
        if deltas[name] is None:
            raise EffectRefused(f"Increment of {shape.name}.{name} by null")
    floor: Any = write.floor.value if isinstance(write.floor, Enum) else write.floor
    if floor is not None and (isinstance(floor, bool) or not isinstance(floor, int | float | Decimal)):
        raise EffectRefused(f"floor must be a number, not {type(floor).__name__} {floor!r:.80}")
    return Increment(write.table, key, deltas, floor, write.otherwise)


def version_number(shape: Shape, version: Any) -> int | None:
    """Returns the stored form of a version: the integer, or microseconds since 1970."""
    if version is None:
        return None
    if type(version) is int and shape.versions == "integer":  # a bool is not a version
        if not -(2**63) <= version < 2**63:
            raise EffectRefused("the version does not fit 64 bits")
        return version
    if isinstance(version, Enum):
        return version_number(shape, version.value)
    if not isinstance(version, datetime) or shape.versions != "timestamp":
        raise EffectRefused(f"version {version!r:.80}, but {shape.name} has versions={shape.versions!r}")
    if version.utcoffset() is None:
        raise EffectRefused(f"version {version.isoformat()} has no UTC offset, such as Z or +02:00")
    return (version - _EPOCH) // _MICROSECOND


def _target(
    entry: AnyEntry, effect: Insert | Upsert | Merge | Increment | Delete | Read
) -> tuple[Shape, str]:
    """Returns the table's shape and the converted key. Raises EffectRefused if the handler may not use it."""
    table, key = effect.table, effect.key
    shape = entry.used.get(table) if type(table) is Table else None
    if shape is None:
        shape = _usable_shape(entry, effect)
    if key is None:
        raise EffectRefused(
            f"{type(effect).__name__} of {table.name} without a key: the record's key is null or unreadable;"
            " in the producer, set the key to the text that names the entity"
        )
    return shape, _coerced(shape, shape.key, key, shape.coercers[shape.key])


def _usable_shape(entry: AnyEntry, effect: Insert | Upsert | Merge | Increment | Delete | Read) -> Shape:
    table, what = effect.table, type(effect).__name__
    if not isinstance(table, Table):
        raise EffectRefused(
            f"{what}: table must be made by entity_table(...), not {type(table).__name__} {table!r:.80}"
        )
    try:
        shape = shape_of(table)
    except TableRefused as refused:
        raise EffectRefused(f"{what}: {refused}") from None
    if isinstance(entry, ProjectionEntry):
        if table is not entry.into:
            raise EffectRefused(
                f"{what} of {table.name} by a handler that projects into {entry.into.name}, its only table"
            )
    elif shape.projection:
        raise EffectRefused(
            f"{what} of projection {table.name}: only handlers declared with @projects(into={table.name})"
            " may touch it"
        )
    elif entry.tables.get(table.name) is not table:
        raise EffectRefused(
            f"{what} of {table.name}, a table that was made after the start or by a module that no module of"
            " SLUICE_HANDLERS uses: make the table in a module that one of them uses;"
            " `sluice init` then creates the table"
        )
    entry.used[table] = shape
    return shape


def _checked_fields(shape: Shape, write: Insert | Upsert | Merge) -> dict[str, Any]:
    writable, required = shape.writable, shape.required
    fields: dict[str, Any] = {}
    values: Any = write.values
    # Nearly all values are given by name; `_named` also takes columns and Enum members.
    for name, value in values.items() if type(values) is dict else _named(write.table, "values", values):
        if type(name) is not str:
            return _checked_fields(shape, replace(write, values=dict(_named(write.table, "values", values))))
        coerce = writable.get(name)
        if coerce is None:
            raise EffectRefused(f"{type(write).__name__} of {shape.name}: {_why_not_writable(shape, name)}")
        try:
            checked = coerce(value)
        except ValueRefused:
            checked = _coerced(shape, name, value, coerce)
        if checked is None and name in required:
            raise EffectRefused(f"{shape.name}.{name} must not be null")
        fields[name] = checked
    return fields


def _named(table: Table, what: str, values: Any) -> Any:
    """Returns the items of `values`, with column names as keys."""
    if type(values) is not dict and not isinstance(values, Mapping):
        raise EffectRefused(
            f"{what} for {table.name} must be a mapping, not {type(values).__name__} {values!r:.80}"
        )
    for name in values:
        if type(name) is not str:
            break
    else:
        return values.items()
    named: dict[str, Any] = {}
    for written, value in values.items():
        name = _column_name(table, written)
        if name in named:
            raise EffectRefused(f"{what} for {table.name} hold column {name!r} twice")
        named[name] = value
    return named.items()


def _column_name(table: Table, written: Any) -> str:
    if isinstance(written, Column):
        if written.table is not table:
            raise EffectRefused(f"column {written} is not a column of {table.name}")
        return str(written.name)
    name = written.value if isinstance(written, Enum) else written
    if not isinstance(name, str):
        raise EffectRefused(
            f"{type(name).__name__} {name!r:.80} names no column of {table.name}; use a string or a column"
        )
    return str.__str__(name)  # `column.name` is a subclass of str


def _why_not_writable(shape: Shape, name: str) -> str:
    if name in shape.counters:
        return f"column {name} is a counter, which only Increment writes"
    if name == shape.key:
        return f"column {name} is the key, which is given as key="
    if name in shape.types:
        return f"column {name} is reserved for Sluice"
    return f"there is no column {name!r:.80}; its columns are {', '.join(shape.fields)}"


def _coerced(shape: Shape, name: str, value: Any, coerce: Coercer) -> Any:
    """Returns the column's form of a value. If the column refuses an Enum member, uses the member's value."""
    try:
        return coerce(value)
    except ValueRefused as refused:
        if isinstance(value, Enum):
            return _coerced(shape, name, value.value, coerce)
        raise EffectRefused(f"{shape.name}.{name}: {refused}") from None


def _resolved(entry: AnyEntry, shape: Shape, version: WriteVersion, event: Event[Any]) -> int | None:
    if version is None:
        if isinstance(entry, ProjectionEntry) and len(entry.sources[shape.name]) > 1:
            raise EffectRefused(f"{entry.name} {versionless_problem(shape.name, entry.sources[shape.name])}")
        return None
    if isinstance(version, EventVersion):
        if event.version is None:
            raise EffectRefused(
                f"the event has no version, and {shape.name} is written by version; have the producer set a"
                " version (as `sluice send TOPIC --key KEY --version N` does), or yield the write with"
                " version=None if the order of arrival decides"
            )
        version = event.version
    return version_number(shape, version)
