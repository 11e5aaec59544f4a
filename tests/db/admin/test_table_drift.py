"""Tables, and live generations of projections, that differ from their declarations."""

import os
import subprocess
import sys

import pytest
from sqlalchemy import Boolean, Column, Integer, MetaData, Numeric, String
from sqlalchemy.dialects.postgresql import CITEXT

from sluice.db.connection import Session
from sluice.db.migrations.migrate import create_projections
from sluice.db.tables import entity_table, projection_table
from tests.db.admin.drifting import ERROR, KEY, WARNING, entity, findings, follow, lacking, session

__all__ = ["session"]

TABLES = {
    "unlogged": (
        f"CREATE UNLOGGED TABLE public.unlogged ({KEY})",
        "is UNLOGGED: a crash of Postgres empties the table",
    ),
    "no_key": ("CREATE TABLE public.no_key (id varchar(64) NOT NULL)", "no unique index on its key id"),
    "partial": (
        "CREATE TABLE public.partial (id varchar(64) NOT NULL);"
        " CREATE UNIQUE INDEX ON public.partial (id) WHERE id > 'b'",
        "no unique index on its key id",
    ),
    "deferred": (
        "CREATE TABLE public.deferred (id varchar(64) NOT NULL UNIQUE DEFERRABLE)",
        "no unique index",
    ),
    "undeclared": (
        f"CREATE TABLE public.undeclared ({KEY}, x int NOT NULL)",
        "Column undeclared.x is not declared",
    ),
    "any_key": (
        "CREATE TABLE public.any_key (id varchar(64) COLLATE public.any_case PRIMARY KEY)",
        "two keys would be one",
    ),
    "short_key": ("CREATE TABLE public.short_key (id varchar(8) PRIMARY KEY)", "more than 8 characters"),
    "joined": (
        f"CREATE TABLE public.one ({KEY});"
        " CREATE VIEW public.joined AS SELECT a.id FROM public.one a, public.one b",
        "Table joined is a view in Postgres, which cannot be written",
    ),
    "materialized": (
        "CREATE MATERIALIZED VIEW public.materialized AS SELECT '1'::text AS id",
        "Table materialized is a materialized view",
    ),
    "shown": (
        "CREATE TABLE public.under (id varchar(8) PRIMARY KEY);"
        " CREATE VIEW public.shown AS SELECT * FROM public.under",
        "Column shown.id is declared VARCHAR(64) NOT NULL and is character varying(8)",
    ),
    "strange_version": (
        f"CREATE TABLE public.strange_version ({KEY}, version int)",
        "Column strange_version.version is declared BIGINT and is integer",
    ),
    "user_additions": (
        f"CREATE TABLE public.user_additions ({KEY}, a int UNIQUE, b int NOT NULL DEFAULT 1 CHECK (b > 0),"
        " c int GENERATED ALWAYS AS (1) STORED, d bigserial); CREATE INDEX ON public.user_additions (b);"
        " ALTER TABLE public.user_additions ENABLE ROW LEVEL SECURITY",
        None,
    ),
    "partitioned": (f"CREATE TABLE public.partitioned ({KEY}) PARTITION BY LIST (id)", None),
    "writable": (
        f"CREATE TABLE public.base ({KEY}); CREATE VIEW public.writable AS SELECT * FROM public.base",
        None,
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_difference_of_a_table_is_reported(name: str, session: Session) -> None:
    statement, words = TABLES[name]
    session.command(statement)
    found = findings(session, entity(name))
    if words is None:
        assert found == []
        return
    [finding] = found
    assert finding.severity is ERROR
    assert words in finding.problem
    if "view" not in finding.problem + finding.advice:
        follow(session, finding.advice)
        assert findings(session, entity(name)) == []


def test_a_difference_of_a_live_generation_is_reported(
    session: Session, request: pytest.FixtureRequest
) -> None:
    table = projection_table(
        "revenue", MetaData(), Column("id", String(64), primary_key=True), Column("v", Numeric(12, 4))
    )
    assert findings(session, table) == [], "the projection has no generation yet"
    url = session._url.render_as_string(hide_password=False)
    create_projections(url, {"revenue": table}, {"revenue": 1})
    assert findings(session, table) == []
    session.command(
        "DROP VIEW public.revenue; ALTER TABLE public.revenue_g1 ALTER v TYPE numeric(12, 2);"
        " CREATE VIEW public.revenue AS SELECT id, v, version, inserted_hash FROM public.revenue_g1"
    )
    [finding] = findings(session, table)
    assert finding.severity is ERROR
    assert "Column revenue_g1.v is declared NUMERIC(12, 4) and is numeric(12,2)" in finding.problem
    assert "and give the view its grants, options, comments and triggers again" in finding.advice
    follow(session, finding.advice)
    assert findings(session, table) == []
    session.command("SELECT id, v, version, inserted_hash FROM public.revenue")


def test_the_printed_statement_adds_missing_columns(session: Session) -> None:
    session.command(f"CREATE TABLE public.parcels ({KEY}, version bigint, inserted_hash uuid)")
    session.command("INSERT INTO public.parcels VALUES ('p-1')")
    key, depot = Column("id", String(64), primary_key=True), Column("depot", String(20))
    is_fragile = Column("Is Fragile", Boolean, nullable=False, default=False)
    table = entity_table("parcels", MetaData(), key, depot, is_fragile)
    [finding] = lacking(session, table)
    assert finding.severity is ERROR
    assert "ADD COLUMN depot VARCHAR(20), " in finding.advice
    assert "DEFAULT and their" not in finding.advice
    follow(session, finding.advice)
    assert lacking(session, table) == []
    assert findings(session, table) == []


def test_a_missing_column_that_needs_a_value_is_named(session: Session) -> None:
    session.command(f"CREATE TABLE public.scanned ({KEY}, version bigint, inserted_hash uuid)")
    [finding] = lacking(session, entity("scanned", Column("scans", Integer, nullable=False)))
    assert finding.advice.endswith("write DEFAULT and their value after the NOT NULL of scans.")


def test_the_printed_statement_adds_missing_columns_of_a_projection(session: Session) -> None:
    columns = Column("id", String(64), primary_key=True), Column("new", Integer), Column("v", Integer)
    older = projection_table("sums", MetaData(), *(one._copy() for one in columns if one.name != "new"))
    create_projections(session._url.render_as_string(hide_password=False), {"sums": older}, {"sums": 1})
    table = projection_table("sums", MetaData(), *columns)
    [finding] = lacking(session, table)
    assert finding.problem == "Table sums lacks new."
    follow(session, finding.advice)
    assert lacking(session, table) == findings(session, table) == []


def test_psql_runs_on_the_database(session: Session) -> None:
    url = session._url.render_as_string(hide_password=False)
    assert url.startswith("postgresql+psycopg2://")
    done = subprocess.run(
        [sys.executable, "-m", "sluice.cli.main", "stack", "psql", "-Atc", "SELECT current_database()"],
        env=os.environ | {"SLUICE_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == session._url.database


def test_case_insensitive_text_columns_are_reported(session: Session) -> None:
    with session.connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'citext'")
        if not cursor.fetchall():
            pytest.skip("this Postgres has no citext")
    session.command("CREATE EXTENSION citext")
    session.command("CREATE TABLE public.cased (id citext PRIMARY KEY, v citext, w text)")
    key, v, w = Column("id", String, primary_key=True), Column("v", String), Column("w", CITEXT)
    found = findings(session, entity_table("cased", MetaData(), key, v, w))
    assert [finding.severity for finding in found] == [ERROR, WARNING, WARNING]
    assert "two keys that differ only in case would be one" in found[0].problem
