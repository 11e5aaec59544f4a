"""The migrations produce exactly the declared tables, are idempotent, and can run concurrently."""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.pool import NullPool

from examples.shop.tables import billing_line_items
from examples.shop.tables import metadata as shop_metadata
from sluice.db.migrations import migrate
from sluice.db.migrations.migrate import (
    create_projections,
    create_user_tables,
    current_revision,
    newest_revision,
    upgrade,
)
from sluice.db.records import (
    CallState,
    Declaration,
    GenerationState,
    LetterState,
    Outcome,
    ProcessKind,
    RetryKind,
)
from sluice.db.schema import VERSION_TABLE, metadata
from sluice.db.tables import TableRefused, is_projection
from sluice.runtime.installation import InstallationRefused
from sluice.runtime.settings import read_schema
from sluice.stack.patience import patient
from tests.harness.raw_sql import make_engine

# Reads every part of a table from the catalogue of Postgres. Autogenerate compares only half of these parts.
CATALOGUE = (
    """
    SELECT c.relkind::text, c.relname, c.reloptions FROM pg_class c
    WHERE c.relnamespace = '{schema}'::regnamespace ORDER BY c.relname
    """,
    """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
           pg_get_expr(d.adbin, d.adrelid)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = '{schema}'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
    ORDER BY c.relname, a.attnum
    """,
    """
    SELECT c.relname, k.conname, pg_get_constraintdef(k.oid) FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid
    WHERE c.relnamespace = '{schema}'::regnamespace ORDER BY c.relname, k.conname
    """,
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = '{schema}' ORDER BY indexname",
    "SELECT sequencename, data_type::text FROM pg_sequences WHERE schemaname = '{schema}' ORDER BY 1",
)


def catalogue(connection: Connection) -> list[list[tuple[object, ...]]]:
    """Returns the parts of all tables in Sluice's schema, except the version table of Alembic."""
    queries = [text(query.replace("{schema}", read_schema())) for query in CATALOGUE]
    found = [[tuple(row) for row in connection.execute(query)] for query in queries]
    return [[row for row in rows if not any(VERSION_TABLE in str(cell) for cell in row)] for rows in found]


def test_migrations_make_exactly_the_declared_tables(connection: Connection) -> None:
    migrated = catalogue(connection)
    connection.execute(text("DROP SCHEMA sluice CASCADE"))
    connection.execute(text("CREATE SCHEMA sluice"))
    metadata.create_all(connection)
    declared = catalogue(connection)
    assert migrated == declared
    assert len(migrated[1]) == sum(len(table.columns) for table in metadata.tables.values())


def test_autogenerate_finds_nothing_to_change(connection: Connection) -> None:
    options = {
        "include_schemas": True,
        "include_name": lambda name, kind, _: kind != "schema" or name == read_schema(),
        "version_table": VERSION_TABLE,
        "version_table_schema": read_schema(),
        "compare_server_default": True,
    }
    declared = MetaData(schema=read_schema(), naming_convention=metadata.naming_convention)
    for table in metadata.tables.values():
        table.to_metadata(declared, schema=read_schema())
    assert compare_metadata(MigrationContext.configure(connection, opts=options), declared) == []


@pytest.mark.parametrize(
    ("table", "column", "states"),
    [
        ("processed_events", "outcome", Outcome),
        ("executed_side_effects", "state", CallState),
        ("dead_letters", "state", set(LetterState) - {LetterState.RETRYING}),
        ("dead_letters", "outcome", (Outcome.DEAD, Outcome.CONFLICT, Outcome.WAITING)),
        ("projection_letters", "state", set(LetterState) - {LetterState.RETRYING}),
        ("projection_letters", "outcome", (Outcome.DEAD, Outcome.CONFLICT, Outcome.WAITING)),
        ("generations", "state", GenerationState),
        ("processes", "kind", ProcessKind),
        ("undeclared", "kind", Declaration),
        ("retries", "kind", RetryKind),
    ],
)
def test_the_enums_list_the_states_that_the_database_allows(
    connection: Connection, table: str, column: str, states: Iterable[StrEnum]
) -> None:
    query = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :name"
    definition = connection.execute(text(query), {"name": f"{table}_{column}_known"}).scalar_one()
    assert sorted(re.findall(r"'(\w+)'::text", definition)) == sorted(states)


def test_every_state_constraint_has_an_enum(connection: Connection) -> None:
    query = "SELECT conname FROM pg_constraint WHERE conname LIKE '%\\_known' AND contype = 'c' ORDER BY 1"
    assert connection.execute(text(query)).scalars().all() == [
        "dead_letters_outcome_known",
        "dead_letters_state_known",
        "dedup_starts_dedup_known",
        "executed_side_effects_state_known",
        "generations_state_known",
        "partition_reads_problem_known",
        "processed_events_outcome_known",
        "processes_kind_known",
        "projection_letters_outcome_known",
        "projection_letters_state_known",
        "retries_kind_known",
        "topics_dedup_known",
        "undeclared_kind_known",
    ]


def test_lane_progress_has_a_counter_for_every_outcome(connection: Connection) -> None:
    query = text("SELECT * FROM sluice.lane_offsets")
    assert set(Outcome) <= set(connection.execute(query).keys())


def test_migrating_again_changes_nothing(database_url: str, connection: Connection) -> None:
    before = catalogue(connection)
    connection.rollback()
    upgrade(database_url)
    assert catalogue(connection) == before
    connection.rollback()
    assert current_revision(database_url) == newest_revision()


def test_concurrent_migrations_wait_for_each_other(database_url: str, connection: Connection) -> None:
    connection.execute(text("DROP SCHEMA sluice CASCADE"))
    connection.commit()
    with ThreadPoolExecutor(3) as pool:
        for migration in [pool.submit(upgrade, database_url) for _ in range(3)]:
            migration.result(timeout=patient(60))
    assert current_revision(database_url) == newest_revision()


def test_a_migration_alters_at_most_one_table() -> None:
    """A migration that locks two tables could deadlock with a worker that locks them in the other order."""
    for script in ScriptDirectory.from_config(migrate.build_config()).walk_revisions():
        changed = re.findall(r"ALTER TABLE sluice\.(\w+)", Path(script.path).read_text())
        assert len(set(changed)) <= 1, script.revision


def test_a_newer_database_is_refused_and_not_changed(database_url: str, connection: Connection) -> None:
    connection.execute(text("UPDATE sluice.alembic_version SET version_num = '9999'"))
    connection.commit()
    with pytest.raises(InstallationRefused, match=r"at migration 9999.*`sluice init` of that version"):
        upgrade(database_url)
    assert current_revision(database_url) == "9999"


def test_an_empty_database_has_no_revision(database_url: str, connection: Connection) -> None:
    connection.execute(text("DROP SCHEMA sluice CASCADE"))
    connection.commit()
    assert current_revision(database_url) is None


# A projection is a view over a table with another name.
PLAIN_TABLES = {name for name, table in shop_metadata.tables.items() if not is_projection(table)}


def test_creating_user_tables_again_creates_nothing(database_url: str) -> None:
    assert create_user_tables(database_url, [shop_metadata]) == sorted(PLAIN_TABLES)
    assert create_user_tables(database_url, [shop_metadata]) == []


def test_missing_user_tables_are_added_to_existing_tables(database_url: str) -> None:
    one = next(iter(shop_metadata.tables.values()))
    only = MetaData()
    one.to_metadata(only)
    assert create_user_tables(database_url, [only]) == [one.name]
    assert create_user_tables(database_url, [shop_metadata]) == sorted(PLAIN_TABLES - {one.name})


def test_a_projection_is_created_one_time_as_a_view_over_its_first_generation(
    database_url: str, connection: Connection
) -> None:
    name = billing_line_items.name
    made = [create_projections(database_url, {name: billing_line_items}, {name: 2}) for _ in range(2)]
    assert made == [[name], []]
    relations = text(
        "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    assert [tuple(row) for row in connection.execute(relations)] == [
        (name, "v"),
        (f"{name}_g1", "r"),
        (f"{name}_g1_account_id_idx", "i"),
        (f"{name}_g1_pkey", "i"),
    ]
    generations = text("SELECT generation, state, revision, has_been_live FROM sluice.generations")
    assert [tuple(row) for row in connection.execute(generations)] == [(1, "live", 2, True)]


def test_init_restores_the_rows_of_a_projection_from_the_generation_of_its_view(
    database_url: str,
) -> None:
    name = billing_line_items.name
    create_projections(database_url, {name: billing_line_items}, {name: 1})
    with make_engine(database_url, poolclass=NullPool).begin() as lost:
        lost.execute(text(f"ALTER TABLE public.{name}_g1 RENAME TO {name}_g7"))
        lost.execute(text("TRUNCATE sluice.projections, sluice.generations CASCADE"))
    assert create_projections(database_url, {name: billing_line_items}, {name: 1}) == [name]
    with make_engine(database_url, poolclass=NullPool).begin() as found:
        rows = found.execute(text("SELECT live_generation, newest_generation FROM sluice.projections"))
        assert [tuple(row) for row in rows] == [(7, 7)]


def test_a_projection_with_the_name_of_an_existing_table_is_refused(
    database_url: str, connection: Connection
) -> None:
    name = billing_line_items.name
    connection.execute(text(f"CREATE TABLE public.{name} (x int)"))
    connection.commit()
    with pytest.raises(TableRefused, match=f"public.{name} exists and is not a projection's view"):
        create_projections(database_url, {name: billing_line_items}, {name: 1})
