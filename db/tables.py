"""Users' tables: SQLAlchemy Core tables with the columns that versioned rows need."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, cast, get_args

from sqlalchemy import BigInteger, Column, Constraint, Index, MetaData, Table
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import JSON, Float, Integer, Numeric, String, TypeEngine, Uuid

from sluice.db.made_tables import note_table
from sluice.db.table_rules import column_problem, name_problem
from sluice.db.values import Coercer, ValueRefused, coercer

Versions = Literal["integer", "timestamp"]
EqualVersions = Literal["last", "first"]
"""The write that wins if two writes have the same timestamp: the one that is applied first, or last."""

VERSION, FIELD_VERSIONS, INSERTED_HASH = "version", "field_versions", "inserted_hash"
BOOKKEEPING = frozenset({VERSION, FIELD_VERSIONS, INSERTED_HASH})

# The shape is an attribute of the table. It is not in `table.info`, because Alembic writes `info` into users'
# revisions.
_SHAPE = "_sluice_shape"
# Limit of a projection's name: Postgres cuts names at 63 bytes, and a generation adds its number.
MAX_PROJECTION_BYTES = 50


class TableRefused(ValueError):
    """Raised for a table that Sluice cannot use. The message contains the table and the necessary change."""


class Shape:
    """Sluice's own properties of a user's table. `shape_of` returns them."""

    def __init__(
        self,
        table: Table,
        *,
        versions: Versions,
        equal_versions: EqualVersions | None = None,
        merged: bool,
        deletable: bool,
        counters: Sequence[str],
        projection: bool = False,
    ) -> None:
        self.name = table.name
        self.projection = projection
        _check_versions(table.name, versions, equal_versions)
        self.versions: Versions = versions
        self.first_wins = equal_versions == "first"
        self.last_wins = versions == "timestamp" and not self.first_wins
        """True if the later of two writes with the same version wins."""
        self.merged = merged
        self.deletable = deletable
        self.counters = frozenset(counters)
        self.key = _only_key(table)
        self.types: dict[str, TypeEngine[Any]] = {str(c.name): c.type for c in table.columns}
        # Columns that Insert, Upsert and Merge write, in declared order.
        self.fields = tuple(n for n in self.types if n != self.key and n not in BOOKKEEPING | self.counters)
        # The columns of a row in memory, without the key and Sluice's own columns.
        self.row_columns = (*self.fields, *sorted(self.counters & self.types.keys()))
        self.coercers: dict[str, Coercer] = {name: coercer(kind) for name, kind in self.types.items()}
        self.writable = {name: self.coercers[name] for name in self.fields}
        self.json_columns = tuple(name for name in self.fields if isinstance(self.types[name], JSON))
        self.defaults = {
            name: _default(table.columns[name], self.coercers[name]) for name in self.row_columns
        }
        self.required = frozenset(name for name in self.row_columns if not table.columns[name].nullable)
        self.has_exact_counters = not any(isinstance(self.types.get(name), Float) for name in self.counters)
        """True if the sum of a counter does not depend on the order of the deltas."""
        self.may_count_absent = all(self.defaults[name] is not None for name in self.required)
        """True if an Increment may add an absent row."""


def entity_table(
    name: str,
    metadata: MetaData,
    *columns: Column[Any] | Constraint | Index,
    versions: Versions = "integer",
    equal_versions: EqualVersions | None = None,
    merged: bool = False,
    deletable: bool = False,
    counters: Sequence[str] = (),
) -> Table:
    """Makes a table of last-writer-wins rows, one row per key. The key is a single column of a text type.

    Adds the columns `version` (bigint; null is older than all versions), `inserted_hash`, and, if fields are
    merged, `field_versions`. `counters` are the columns that only Increment writes. `equal_versions` is valid
    only for timestamps, and decides between two writes with the same timestamp: "last" (the default) keeps
    the write that is applied last, and "first" keeps the write that is applied first. Raises TableRefused.
    """
    return _make_table(
        name,
        metadata,
        columns,
        versions=versions,
        equal_versions=equal_versions,
        merged=merged,
        deletable=deletable,
        counters=counters,
        projection=False,
    )


def projection_table(
    name: str,
    metadata: MetaData,
    *columns: Column[Any] | Constraint | Index,
    versions: Versions = "integer",
    equal_versions: EqualVersions | None = None,
    merged: bool = False,
    deletable: bool = False,
    counters: Sequence[str] = (),
) -> Table:
    """Makes a projection: a table that only handlers with `@projects(..., into=table)` write.

    Therefore its rows depend only on events. In Postgres, its name is the name of a view, which shows one
    generation. Each generation is a separate table. No foreign key may reference a projection, because
    generations are replaced. Otherwise as `entity_table`. Raises TableRefused.
    """
    if isinstance(name, str) and len(name.encode("utf-8", "surrogatepass")) > MAX_PROJECTION_BYTES:
        raise TableRefused(
            f"projection {name}: more than {MAX_PROJECTION_BYTES} bytes, which leaves no room for generations"
        )
    return _make_table(
        name,
        metadata,
        columns,
        versions=versions,
        equal_versions=equal_versions,
        merged=merged,
        deletable=deletable,
        counters=counters,
        projection=True,
    )


def generation_name(projection: str, generation: int) -> str:
    """Returns the name of the table that holds a generation's rows."""
    return f"{projection}_g{generation}"


def _make_table(
    name: str,
    metadata: MetaData,
    columns: Sequence[Column[Any] | Constraint | Index],
    *,
    versions: Versions,
    equal_versions: EqualVersions | None,
    merged: bool,
    deletable: bool,
    counters: Sequence[str],
    projection: bool,
) -> Table:
    _refuse_arguments(name, metadata, counters, {"merged": merged, "deletable": deletable})
    own: list[Column[Any]] = [
        Column(VERSION, BigInteger, nullable=True),
        Column(INSERTED_HASH, Uuid, nullable=True),
    ]
    if merged:
        own.append(Column(FIELD_VERSIONS, JSONB(none_as_null=True), nullable=True))
    taken = sorted(BOOKKEEPING & {c.name for c in columns if isinstance(c, Column)})
    if taken:
        raise TableRefused(f"table {name}: column {taken[0]} is reserved for Sluice; choose another name")
    try:
        table = Table(name, metadata, *columns, *own)
    except SQLAlchemyError as error:
        raise TableRefused(f"table {name}: {error}") from error
    try:
        _refuse_columns(table)
        shape = Shape(
            table,
            versions=versions,
            equal_versions=equal_versions,
            merged=merged,
            deletable=deletable,
            counters=counters,
            projection=projection,
        )
        _refuse_shape(table, shape)
    except TableRefused:
        metadata.remove(table)  # or `sluice init` would create the refused table
        raise
    setattr(table, _SHAPE, shape)
    note_table(table)
    return table


def shape_of(table: Table) -> Shape:
    """Returns the shape of a table that the functions above made. Raises TableRefused for other tables."""
    shape: Shape | None = getattr(table, _SHAPE, None)
    if shape is None:
        raise TableRefused(f"table {table.name} was not made by entity_table(...), so it cannot be written")
    return shape


def has_shape(table: Table) -> bool:
    """Returns True if the functions above made the table. A copy by `to_metadata` does not count."""
    return hasattr(table, _SHAPE)


def is_projection(table: Table) -> bool:
    """Returns True if `projection_table` made the table."""
    return has_shape(table) and shape_of(table).projection


def _check_versions(name: str, versions: str, equal_versions: str | None) -> None:
    if versions not in get_args(Versions):
        raise TableRefused(f'table {name}: versions={versions!r}; use "integer" or "timestamp"')
    if equal_versions is None:
        return
    if equal_versions not in get_args(EqualVersions):
        raise TableRefused(f'table {name}: equal_versions={equal_versions!r}; use "last" or "first"')
    if versions == "integer":
        raise TableRefused(
            f"table {name}: equal_versions={equal_versions!r} with integer versions, where two equal versions"
            ' with different values are a conflict; leave equal_versions out, or use versions="timestamp"'
        )


def _only_key(table: Table) -> str:
    keys = list(table.primary_key.columns)
    if len(keys) != 1 or not isinstance(keys[0].type, String):
        raise TableRefused(f"table {table.name} needs exactly one primary-key column, of a text type")
    return str(keys[0].name)


def _default(column: Column[Any], coerce: Coercer) -> Any:
    """Returns the literal default of a column; None if the column has no literal default."""
    if column.default is None or not column.default.is_scalar:
        return None
    try:
        return coerce(cast(Any, column.default).arg)
    except ValueRefused as error:
        raise TableRefused(f"table {column.table.name}: default of column {column.name}: {error}") from error


def _refuse_arguments(
    name: str, metadata: MetaData, counters: Sequence[str], switches: Mapping[str, bool]
) -> None:
    if not isinstance(name, str):
        raise TableRefused(f"table {name!r}: its name is not a string")
    if not isinstance(metadata, MetaData):
        raise TableRefused(
            f"table {name}: the second argument must be a MetaData, as in metadata = MetaData(), not"
            f" {type(metadata).__name__} {metadata!r:.80}"
        )
    is_list = isinstance(counters, Collection) and not isinstance(counters, str)
    if not is_list or not all(isinstance(one, str) for one in counters):
        example = counters if isinstance(counters, str) else "visits"
        raise TableRefused(
            f"table {name}: counters= must be a tuple of column names, as in counters=({example!r},), not"
            f" {counters!r:.80}"
        )
    for option, value in switches.items():
        if not isinstance(value, bool):
            raise TableRefused(f"table {name}: {option}= must be True or False, not {value!r:.80}")
    if problem := name_problem(name):
        raise TableRefused(f"table {name!r}: its name {problem}")
    if metadata.schema is not None:
        raise TableRefused(
            f"table {name}: has schema {metadata.schema!r}; users' tables must be in schema public"
        )


def _refuse_columns(table: Table) -> None:
    for column in table.columns:
        if problem := column_problem(column, is_key=column.primary_key):
            raise TableRefused(f"table {table.name}: column {column.name} {problem}")


def _refuse_shape(table: Table, shape: Shape) -> None:
    if shape.projection and table.foreign_keys:
        raise TableRefused(
            f"projection {table.name}: has a foreign key; remove it, because later events may write the"
            " referenced rows"
        )
    for counter in shape.counters:
        if counter not in shape.row_columns or not isinstance(shape.types[counter], Integer | Numeric):
            raise TableRefused(f"table {table.name}: counter {counter} is not a number column of the table")
        if shape.defaults[counter] is None:
            raise TableRefused(f"table {table.name}: counter {counter} needs default=0 (or another number)")
    if shape.merged:
        for name in (n for n in shape.fields if n in shape.required and shape.defaults[n] is None):
            raise TableRefused(
                f"merged table {table.name}: column {name} must be nullable or have a literal default,"
                " because the first event may write only other fields"
            )
