"""Columns that differ from their declarations: the finding, the effect on a value, and the fix."""

import re
from typing import Any, NamedTuple

import psycopg2
import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from sluice.admin.doctor.findings import Severity
from sluice.db.connection import Session
from tests.db.admin.drifting import ERROR, KEY, WARNING, entity, findings, follow, session

__all__ = ["session"]


class Case(NamedTuple):
    """A column and a declared `value`. Postgres stores it as the text `becomes`, or raises that error."""

    declared: TypeEngine[Any]
    stored: str
    severity: Severity | None
    words: str = ""
    value: str | None = None
    becomes: str | None = None
    nullable: bool = True


TOO_LONG, OUT_OF_RANGE, NOT_OF_TYPE, IS_NULL, IS_GENERATED = "22001", "22003", "22P02", "23502", "428C9"
AB = Enum("a", "b", name="letters")
CASES = {
    # The stored type is narrower, so Postgres changes or refuses some values.
    "scale": Case(
        Numeric(12, 4), "numeric(12, 2)", ERROR, "1.2345 would be stored as 1.23", "1.2345", "1.23"
    ),
    "scale and digits": Case(
        Numeric(12, 3), "numeric(5, 2)", ERROR, "1.234 would be stored as 1.23", "1.234", "1.23"
    ),
    "no decimal places": Case(Numeric(12, 2), "numeric(12)", ERROR, "1.23 would be stored as 1", "1.23", "1"),
    "negative scale": Case(Numeric(9), "numeric(9, -2)", ERROR, "would be stored as 0", "1", "0"),
    "any number": Case(
        Numeric(), "numeric(12, 2)", ERROR, "1.2345 would be stored as 1.23", "1.2345", "1.23"
    ),
    "digits": Case(Numeric(12, 2), "numeric(10, 2)", ERROR, "more than 8 digits", "123456789", OUT_OF_RANGE),
    "scale of a domain": Case(
        Numeric(12, 4), "public.amount", ERROR, "is amount (numeric(12,2))", "1.2345", "1.23"
    ),
    "length": Case(String(20), "varchar(10)", ERROR, "more than 10 characters", "'12345678901'", TOO_LONG),
    "any length": Case(Text(), "varchar(10)", ERROR, "more than 10 characters", "'12345678901'", TOO_LONG),
    "length of an Enum as text": Case(
        Enum("a", "bcd", native_enum=False), "varchar(2)", ERROR, "more than 2 characters", "'bcd'", TOO_LONG
    ),
    "integer": Case(Integer(), "smallint", ERROR, "above 32767", "32768", OUT_OF_RANGE),
    "bigint": Case(BigInteger(), "integer", ERROR, "above 2147483647", "2147483648", OUT_OF_RANGE),
    "float": Case(Float(), "real", ERROR, "stored as 1.2345679", "1.23456789", "1.2345679"),
    "digits of a second": Case(
        DateTime(timezone=True),
        "timestamptz(0)",
        ERROR,
        "rounded to 0 digits",
        "'2026-01-31 12:30:00.6Z'",
        "2026-01-31 12:30:01+00",
    ),
    "a value of an Enum": Case(AB, "public.letter", ERROR, "the value b", "'b'", NOT_OF_TYPE),
    "a value of an Enum as text": Case(
        Enum("a", "b", native_enum=False), "public.single", ERROR, "the value b", "'b'", NOT_OF_TYPE
    ),
    "NOT NULL": Case(Integer(), "integer NOT NULL", ERROR, "leaves it empty", "NULL", IS_NULL),
    "NOT NULL of a domain": Case(
        Numeric(12, 2), "public.small_amount", ERROR, "leaves it empty", "NULL", IS_NULL
    ),
    # The stored type has no time zone.
    "timestamp": Case(
        DateTime(timezone=True),
        "timestamp",
        ERROR,
        "lose its offset",
        "'2026-01-31 12:30Z'",
        "2026-01-31 12:30:00",
    ),
    "date for a time": Case(
        DateTime(timezone=True), "date", ERROR, "stored as 2026-01-31", "'2026-01-31 12:30Z'", "2026-01-31"
    ),
    # The stored type is of another kind.
    "padded text": Case(String(5), "char(5)", ERROR, "padded with spaces"),
    "float for decimal": Case(Numeric(12, 2), "double precision", ERROR, "binary fraction"),
    "integer for decimal": Case(Numeric(12, 2), "bigint", ERROR, "1.5 would be stored as 2"),
    "decimal for integer": Case(Integer(), "numeric", ERROR, "come back as other values"),
    "decimal for float": Case(Float(), "numeric", ERROR, "come back as other values"),
    "text for integer": Case(Integer(), "text", ERROR, "come back as other values"),
    "text for boolean": Case(Boolean(), "text", ERROR, "come back as other values"),
    "text for uuid": Case(Uuid(), "varchar(36)", ERROR, "come back as other values"),
    "text for date": Case(Date(), "text", ERROR, "come back as other values"),
    "timestamp for date": Case(Date(), "timestamptz", ERROR, "come back as other values"),
    "text for bytes": Case(LargeBinary(), "text", ERROR, "come back as other values"),
    "json for jsonb": Case(JSONB(), "json", ERROR, "compared or indexed"),
    "jsonb for json": Case(JSON(), "jsonb", ERROR, "order of its names"),
    "text for json": Case(JSONB(), "text", ERROR, "come back as other values"),
    "an array": Case(Integer(), "integer[]", ERROR, "come back as other values"),
    "an Enum for text": Case(String(), "public.letters", ERROR, "come back as other values"),
    "integer for an Enum": Case(AB, "integer", ERROR, "come back as other values"),
    # Postgres computes the value of the column.
    "computed": Case(
        Integer(),
        "integer GENERATED ALWAYS AS (1) STORED",
        ERROR,
        "refuses any other value",
        "1",
        IS_GENERATED,
    ),
    "identity": Case(
        Integer(),
        "integer GENERATED ALWAYS AS IDENTITY",
        ERROR,
        "refuses any other value",
        "1",
        IS_GENERATED,
        nullable=False,
    ),
    # The stored type is wider, so every value fits.
    "more decimal places": Case(Numeric(12, 2), "numeric(14, 4)", WARNING, "the declaration does not permit"),
    "any decimal places": Case(Numeric(12, 2), "numeric", WARNING, "the declaration does not permit"),
    "more characters": Case(String(10), "varchar(20)", WARNING, "the declaration does not permit"),
    "any characters": Case(String(10), "text", WARNING, "the declaration does not permit"),
    "a larger integer": Case(SmallInteger(), "bigint", WARNING, "the declaration does not permit"),
    "more values": Case(AB, "public.more_letters", WARNING, "the declaration does not permit"),
    "text for an Enum": Case(AB, "text", WARNING, "the declaration does not permit"),
    "nullable": Case(Integer(), "integer", WARNING, "other programs may leave it empty", nullable=False),
    # The stored type is equal to the declared type.
    "numeric": Case(Numeric(12, 4), "numeric(12, 4)", None),
    "any numeric": Case(Numeric(), "numeric", None),
    "a domain": Case(Numeric(12, 4), "public.exact_amount", None),
    "text": Case(Text(), "varchar", None),
    "varchar": Case(String(), "text", None),
    "an Enum": Case(AB, "public.letters", None),
    "an Enum as text": Case(Enum("a", "bc", native_enum=False), "varchar(2)", None),
    "a default and a check": Case(Integer(), "integer DEFAULT 7 CHECK (v > 0)", None),
    "an identity by default": Case(
        Integer(), "integer GENERATED BY DEFAULT AS IDENTITY", None, nullable=False
    ),
    "a column of any case": Case(String(), "text COLLATE public.any_case", None),
}
SAME: dict[str, TypeEngine[Any]] = {
    "smallint": SmallInteger(),
    "integer": Integer(),
    "bigint": BigInteger(),
    "boolean": Boolean(),
    "double precision": Float(),
    "timestamptz": DateTime(timezone=True),
    "timestamptz(6)": DateTime(timezone=True),
    "date": Date(),
    "uuid": Uuid(),
    "bytea": LargeBinary(),
    "json": JSON(),
    "jsonb": JSONB(),
}
CASES |= {stored: Case(declared, stored, None) for stored, declared in SAME.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_difference_of_a_column_is_reported(name: str, session: Session) -> None:
    case = CASES[name]
    table = entity(re.sub(r"\W", "_", name), Column("v", case.declared, nullable=case.nullable))
    target = f'public."{table.name}"'
    session.command(f"CREATE TABLE {target} ({KEY}, v {case.stored}, version bigint, inserted_hash uuid)")
    if case.value is not None:
        assert stored_as(session, target, case.value) == case.becomes
    found = findings(session, table)
    if case.severity is None:
        assert found == []
        return
    [finding] = found
    assert finding.severity is case.severity
    assert case.words in finding.problem
    assert f"Column {table.name}.v is declared " in finding.problem
    session.command(f"TRUNCATE {target}")
    if case.severity is ERROR and name != "integer for an Enum":
        follow(session, finding.advice)
        assert findings(session, table) == []


def stored_as(session: Session, target: str, value: str) -> str | None:
    """Stores a value and returns it as text, or returns the code of the error."""
    try:
        session.command(f"INSERT INTO {target} (id, v) VALUES ('k', {value})")
    except psycopg2.Error as error:
        return error.pgcode
    with session.connection.cursor() as cursor:
        cursor.execute(f"SELECT v::text FROM {target}")
        [(text,)] = cursor.fetchall()
    return str(text)
