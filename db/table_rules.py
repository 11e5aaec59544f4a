"""The rules for columns of users' tables, so that Postgres returns exactly the written values. Pure."""

import re
from typing import Any

from sqlalchemy import Column
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import (
    CHAR,
    JSON,
    REAL,
    Boolean,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    String,
    TypeEngine,
    Uuid,
)

MAX_NAME_BYTES = 63
SUPPORTED_TYPES = (String, Integer, Numeric, Float, Boolean, DateTime, Date, Uuid, LargeBinary, JSON, Enum)
# The names of these types in Postgres. A subclass of such a type may have another name in Postgres.
_SUPPORTED_NAMES = frozenset(
    {"VARCHAR", "TEXT", "CITEXT", "SMALLINT", "INTEGER", "BIGINT", "NUMERIC", "DECIMAL", "FLOAT"}
    | {"DOUBLE PRECISION", "BOOLEAN", "TIMESTAMP WITH TIME ZONE", "DATE", "UUID", "BYTEA", "JSON", "JSONB"}
)
_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
# Characters that a name may contain in addition to letters, digits and "_". A dot, a colon, "%" and a quote
# are not allowed, because programs that process names give them a special meaning.
_SIGNS = frozenset("$- ")
_MAX_PRECISION, _MAX_LENGTH = 1_000, 10_485_760

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def name_problem(name: str) -> str | None:
    """Returns the reason why a name cannot be used, as the end of a sentence. None if it can be used."""
    if not name:
        return "is empty"
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_NAME_BYTES:
        return f"has {size} bytes, and Postgres cuts names after {MAX_NAME_BYTES}; choose a shorter name"
    strange = sorted({sign for sign in name if not (sign in _SIGNS or f"a{sign}".isidentifier())})
    if strange or name != name.strip():
        what = " ".join(map(ascii, strange)) or "a space at its start or end"
        return f"holds {what}; use letters, digits, '_', '$', '-' and spaces between them"
    if getattr(name, "quote", None) is False:
        return "has quote=False, and then Postgres changes upper case to lower case; remove quote="
    return None


def column_problem(column: Column[Any], *, is_key: bool) -> str | None:
    """Returns the reason why a column cannot be used, as the end of a sentence. None if it can be used."""
    if problem := name_problem(column.name):
        return f"has a name that {problem}"
    if column.name in _SYSTEM_COLUMNS:
        return "has the name of one of Postgres' own columns; choose another name"
    if column.key != column.name:
        return f"has key={column.key!r}: handlers use the column names of Postgres; remove key="
    return _type_problem(column.type, is_key=is_key) or _value_problem(column)


def _value_problem(column: Column[Any]) -> str | None:
    """Returns the reason why Postgres would set a value of this column itself, as the end of a sentence.

    None if only handlers set the values.
    """
    if column.identity is not None or column.computed is not None or column.autoincrement is True:
        return "is filled by Postgres (Identity, Computed or autoincrement); write it in the handler"
    if column.onupdate is not None or column.server_onupdate is not None:
        return "has onupdate=, which would write a value that no event contains; write it in the handler"
    if column.server_default is not None or (column.default is not None and not column.default.is_scalar):
        return "has a default that Postgres or a function computes; declare a literal default with default="
    if column.system:
        return "has system=True, and CREATE TABLE leaves out such a column; remove system="
    return None


def _type_problem(kind: TypeEngine[Any], *, is_key: bool) -> str | None:
    if not isinstance(kind, SUPPORTED_TYPES):
        return f"has type {kind!r}, which is not supported"
    if kind._variant_mapping:
        return "has a type with variants; declare the type that it has in Postgres"
    if isinstance(kind, DateTime) and not kind.timezone:
        return "needs DateTime(timezone=True)"
    if _is_altered_by_postgres(kind):
        return f"has type {kind!r}, which pads or rounds values; use String, Float or DateTime(timezone=True)"
    if isinstance(kind, Enum) and kind.native_enum:
        return "is the key and has a type that is not a text; use String" if is_key else _enum_problem(kind)
    try:
        rendered = kind.compile(dialect=DIALECT)
    except SQLAlchemyError as error:
        return f"has type {kind!r}, which Postgres does not have: {error}"
    name = re.sub(r"\(.*?\)| COLLATE .*", "", rendered)
    if name not in _SUPPORTED_NAMES:
        return f"has type {kind!r}, which is {rendered} in Postgres and not supported"
    if is_key and name == "CITEXT":
        return (
            "is the key and has type CITEXT, which treats keys that differ only in case as equal; use String"
        )
    return _size_problem(kind)


def _enum_problem(kind: Enum) -> str | None:
    if not kind.name:
        return "has an Enum without name=, which Postgres needs for its type"
    if kind.schema is not None:
        return f"has an Enum of schema {kind.schema!r}; users' types must be in schema public"
    if problem := name_problem(kind.name):
        return f"has an Enum whose name {problem}"
    return None


def _size_problem(kind: TypeEngine[Any]) -> str | None:
    if isinstance(kind, String) and kind.length is not None and not 1 <= kind.length <= _MAX_LENGTH:
        return f"has length {kind.length}; use 1 to {_MAX_LENGTH}, or no length for text of any length"
    if isinstance(kind, Float):
        if kind.precision is not None and not 1 <= kind.precision <= 53:
            return f"has precision {kind.precision}; use 25 to 53"
    elif isinstance(kind, Numeric) and kind.precision is not None:
        if not 1 <= kind.precision <= _MAX_PRECISION:
            return f"has precision {kind.precision}; use 1 to {_MAX_PRECISION}"
        if not 0 <= (kind.scale or 0) <= kind.precision:
            return f"has scale {kind.scale}; use 0 to the precision, which is {kind.precision}"
    return None


def _is_altered_by_postgres(kind: TypeEngine[Any]) -> bool:
    # If Postgres alters a value, the value that is read back differs from the value in the worker's memory.
    single = isinstance(kind, REAL) or (isinstance(kind, Float) and (kind.precision or 53) <= 24)
    return (
        single
        or isinstance(kind, CHAR)
        or (getattr(kind, "precision", None) is not None and isinstance(kind, DateTime))
    )
