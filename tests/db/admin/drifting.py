"""A database whose tables differ from their declarations."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String, Table

from sluice.admin.doctor.findings import Finding, Severity
from sluice.admin.table_drift import drift_findings, missing_findings
from sluice.db.admin.doctor_facts import read_user_columns
from sluice.db.admin.stored_tables import read_stored_tables
from sluice.db.connection import Session
from sluice.db.tables import entity_table
from sluice.stack import Stack
from tests.db.db.test_users_tables import ANY_CASE
from tests.harness import stacks

ERROR, WARNING = Severity.ERROR, Severity.WARNING
KEY = "id varchar(64) PRIMARY KEY"
SET_UP = f"""
    {ANY_CASE};
    CREATE DOMAIN public.amount AS numeric(12, 2);
    CREATE DOMAIN public.small_amount AS public.amount NOT NULL;
    CREATE DOMAIN public.exact_amount AS numeric(12, 4) CHECK (value >= 0);
    CREATE TYPE public.letters AS ENUM ('a', 'b');
    CREATE TYPE public.more_letters AS ENUM ('a', 'b', 'c');
    CREATE TYPE public.letter AS ENUM ('a');
    CREATE TYPE public.single AS ENUM ('a')
"""


@pytest.fixture(scope="module")
def session(shared_stack: Stack) -> Iterator[Session]:
    """Returns one session for all cases. Each case has its own table."""
    shared_stack.start("postgres")
    with stacks.database(shared_stack) as url:
        opened = Session(url, application_name="test drift")
        opened.command(SET_UP)
        yield opened
        opened.close()


def findings(session: Session, table: Table) -> list[Finding]:
    return list(drift_findings([table], read_stored_tables(session, [table])))


def lacking(session: Session, table: Table) -> list[Finding]:
    """Returns the findings about missing tables and columns."""
    declared = {table.name: frozenset(column.name for column in table.columns)}
    stored = read_stored_tables(session, [table])
    return list(missing_findings(declared, read_user_columns(session), [], frozenset(), [table], stored))


def follow(session: Session, advice: str) -> None:
    """Runs the SQL statements in the advice of a finding."""
    statements, *_ = re.findall("`([^`]*)`", advice)
    session.command(statements)


def entity(name: str, column: Column[Any] | None = None) -> Table:
    columns = [] if column is None else [column]
    return entity_table(name, MetaData(), Column("id", String(64), primary_key=True), *columns)
