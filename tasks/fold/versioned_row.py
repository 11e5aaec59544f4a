"""Applies versioned writes to rows in memory; the last writer wins. Pure. The tests use it as their oracle.

A row has a base version: the version of the newest Insert, Upsert or Delete of the row. These write all
fields. A field that was merged later has its own version, above the base. The version None is older than
every other version. So writes with different versions have the same result in any order of arrival. Fields
and deltas are checked when a handler yields them, not here. The check ensures that an Insert or Upsert
contains every field of the table.

Two writes with the same integer version conflict unless their values are the same; a Delete wins. Timestamps
come from coarse clocks. So of two writes with the same timestamp, the later arrival wins. In a table with
`equal_versions="first"`, the earlier arrival wins, and a field's version may equal the base version.
"""

from collections.abc import Mapping
from enum import Enum
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from sluice.db.tables import Shape
from sluice.db.values import ValueRefused, add_exactly


class WriteResult(Enum):
    """The result of one write. The row changes only if the result is APPLIED."""

    APPLIED = "applied"
    STALE = "stale"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


class Row(NamedTuple):
    """The current row with its tombstone. Immutable: every write makes a new Row.

    `values` holds the columns except the key and the bookkeeping columns. It is None for an absent row.
    `tombstone` is the version of the newest Delete. If a row is present and its base version equals the
    tombstone, the Delete of this version has set all older fields of the row to their defaults.
    """

    values: Mapping[str, Any] | None = None
    version: int | None = None
    field_versions: Mapping[str, int] = {}
    inserted_hash: UUID | None = None
    tombstone: int | None = None


ABSENT = Row()


def insert(shape: Shape, row: Row, fields: Mapping[str, Any], version: int | None) -> tuple[WriteResult, Row]:
    """Inserts the row unless an earlier Insert has inserted it.

    An Insert without a version is stale after a Delete or Upsert with a version.
    """
    content = content_hash(fields)
    if row.inserted_hash is not None:
        return (WriteResult.DUPLICATE if row.inserted_hash == content else WriteResult.CONFLICT), row
    base = row.tombstone if row.values is None else row.version
    if base is not None and (version is None or version <= base):
        return WriteResult.STALE, row
    if version is not None and _contradicts(shape, row, fields, version):
        return WriteResult.CONFLICT, row
    return WriteResult.APPLIED, _written(shape, row, fields, version, content)


def upsert(shape: Shape, row: Row, fields: Mapping[str, Any], version: int | None) -> tuple[WriteResult, Row]:
    """Writes the whole row if its version is the newest. With `version=None`, the later arrival wins."""
    base = row.tombstone if row.values is None else row.version
    if version is None:
        # Writes every field, even fields with their own version, because the later arrival wins.
        values = _with_counters(shape, row, fields)
        return WriteResult.APPLIED, Row(values, base, row.field_versions, row.inserted_hash, row.tombstone)
    if base is not None and version < base:
        return WriteResult.STALE, row
    if version == base and not shape.last_wins:
        if row.values is None or version == row.tombstone:
            return WriteResult.STALE, row  # the Delete of this version wins
        return _compare(shape, row, fields, frozenset(row.field_versions)), row
    if _contradicts(shape, row, fields, version):
        return WriteResult.CONFLICT, row
    return WriteResult.APPLIED, _written(shape, row, fields, version, row.inserted_hash)


def merge(shape: Shape, row: Row, fields: Mapping[str, Any], version: int | None) -> tuple[WriteResult, Row]:
    """Writes each field for which `version` is newer than the version of the field, or is None.

    A field without its own version has the base version.
    """
    absent = row.values is None
    base = row.tombstone if absent else row.version
    current = {**shape.defaults} if row.values is None else dict(row.values)
    own = dict(row.field_versions)
    results = set()
    for name, value in fields.items():
        result = _merge_field(shape, row, name, value, version, own.get(name, base))
        results.add(result)
        if result is WriteResult.APPLIED:
            current[name] = value
            if version is not None:
                own[name] = version
    if WriteResult.CONFLICT in results:
        return WriteResult.CONFLICT, row
    if WriteResult.APPLIED in results:
        return WriteResult.APPLIED, Row(current, base, own, row.inserted_hash, row.tombstone)
    return (WriteResult.STALE if WriteResult.STALE in results or not results else WriteResult.DUPLICATE), row


def delete(shape: Shape, row: Row, version: int | None) -> tuple[WriteResult, Row]:
    """Deletes the row and stores the version as the tombstone. Keeps fields that are newer."""
    base = row.tombstone if row.values is None else row.version
    if version is None:
        known = [v for v in (base, row.tombstone, *row.field_versions.values()) if v is not None]
        return WriteResult.APPLIED, Row(tombstone=max(known, default=None))
    if base is not None and version < base:
        return WriteResult.STALE, row
    if version == base == row.tombstone and (row.values is None or not shape.last_wins):
        return WriteResult.DUPLICATE, row
    if version == base and shape.first_wins:
        return WriteResult.STALE, row
    newer = _fields_that_stay(shape, row, version)
    if row.values is None or not newer:
        return WriteResult.APPLIED, Row(tombstone=version)
    kept = {**shape.defaults, **{name: row.values[name] for name in newer}}
    return WriteResult.APPLIED, Row(kept, version, newer, None, version)


def increment(
    shape: Shape, row: Row, deltas: Mapping[str, Any], floor: Any
) -> tuple[WriteResult | None, Row]:
    """Adds to counters. Returns no result, and changes nothing, if a sum would be below `floor`."""
    if row.values is None and row.tombstone is not None:
        return WriteResult.STALE, row
    if row.values is None:
        _check_required(shape, shape.defaults)
    current = shape.defaults if row.values is None else row.values
    results = {
        name: shape.coercers[name](add_exactly(current[name], delta)) for name, delta in deltas.items()
    }
    if floor is not None and any(result < floor for result in results.values()):
        return None, row
    return WriteResult.APPLIED, row._replace(values={**current, **results})


def _check_required(shape: Shape, values: Mapping[str, Any]) -> None:
    for name in shape.required:
        if values.get(name, 0) is None:
            raise ValueRefused(f"{shape.name}.{name} must not be null")


def _with_counters(shape: Shape, row: Row, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields and the unchanged counters. Only an Increment may change a counter."""
    values = dict(fields)
    if shape.counters:
        source = shape.defaults if row.values is None else row.values
        values |= {name: source[name] for name in shape.counters}
    return values


def _written(
    shape: Shape, row: Row, fields: Mapping[str, Any], version: int | None, content: UUID | None
) -> Row:
    """Returns the row after a whole-row write at `version`. Newer fields are kept, with their versions."""
    values = _with_counters(shape, row, fields)
    if row.values is None or not row.field_versions:
        return Row(values, version, {}, content, row.tombstone)
    newer = row.field_versions if version is None else _fields_that_stay(shape, row, version)
    values |= {name: row.values[name] for name in newer}
    return Row(values, version, newer, content, row.tombstone)


def _contradicts(shape: Shape, row: Row, fields: Mapping[str, Any], version: int) -> bool:
    """Returns True if a field was merged at the same version with another value (integer versions only)."""
    if not row.field_versions or shape.versions != "integer":
        return False
    values = row.values or {}
    return any(own == version and values[name] != fields[name] for name, own in row.field_versions.items())


def _fields_that_stay(shape: Shape, row: Row, version: int) -> dict[str, int]:
    """Returns the fields that a whole-row write at `version` keeps, with their versions."""
    first = shape.first_wins
    return {
        name: own for name, own in row.field_versions.items() if own > version or (first and own == version)
    }


def _compare(
    shape: Shape, row: Row, fields: Mapping[str, Any], besides: frozenset[str] = frozenset()
) -> WriteResult:
    """Returns the result of a write whose version equals the stored version."""
    values = row.values or {}
    if all(values[name] == value for name, value in fields.items() if name not in besides):
        return WriteResult.DUPLICATE
    return WriteResult.STALE if shape.first_wins else WriteResult.CONFLICT


def _merge_field(
    shape: Shape, row: Row, name: str, value: Any, version: int | None, known: int | None
) -> WriteResult:
    if version is None or known is None or version > known:
        return WriteResult.APPLIED
    if version < known:
        return WriteResult.STALE
    if shape.last_wins:
        return WriteResult.APPLIED
    if name not in row.field_versions and known == row.tombstone:
        return WriteResult.STALE  # the Delete of this version wins
    return _compare(shape, row, {name: value})


def content_hash(fields: Mapping[str, Any]) -> UUID:
    """Returns the hash by which an Insert recognises its own repeats."""
    return UUID(bytes=blake2b(msgspec.json.encode(fields, order="sorted"), digest_size=16).digest())
