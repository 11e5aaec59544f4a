"""`sluice grants` gives each role what it needs, and no role of a reader the key that signs messages."""

from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pkgutil import walk_packages

import pytest
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool
from typer.testing import CliRunner

from sluice import db
from sluice.admin import init
from sluice.admin.grants import KEYS, Role, grant_lines, rights_of
from sluice.cli.main import app
from sluice.db.connection import Session, Statement
from sluice.db.delivery.installation import read_keys
from sluice.db.migrations.migrate import upgrade
from sluice.runtime.schema_name import schema_of
from sluice.stack import Stack
from sluice.tasks.api import Emit
from sluice.tasks.fold.registry import collect_handlers
from sluice.tasks.outbox.emit import emit
from tests.db.tasks.applying import Bench, create_tables, slice_of, thing_set
from tests.harness.granted_roles import GrantedRoles, owned_database, run_as_superuser, run_script
from tests.harness.raw_sql import make_engine
from tests.harness.stacks import install

As = Callable[[Role], str]

OF_ALL = ("delivery.living_processes", "delivery.installation:read_", "delivery.claims:read_claim_key")
RUN_BY = {
    Role.BRIDGE: (
        *("delivery.progress", "delivery.bridge_instances", "delivery.partition_reads"),
        *("delivery.dedup_modes", "delivery.claims:write_claim"),
    ),
    Role.WORKER: ("apply", "delivery.leases", "projections.generation", "projections.stopped_generations"),
    Role.RELAY: ("sending", "admin.retention", "delivery.undeclared", "projections.generation_lag:read_"),
    Role.EFFECTS: ("sending.calls",),
    Role.REBUILD: (
        *("projections.generation", "projections.stopped_generations", "projections.snapshots"),
        *("apply.projection_letters", "apply.handler_deaths", "apply.guard:lock_queue"),
        "apply.erasures:read_",
    ),
    Role.BEAT: ("admin.open_issues", "admin.totals", "delivery.leases:read_"),
}
"""Role → the statements that its process runs: a module of `sluice.db` or a group of modules, `:`, and the
beginning of the statements' names.
"""
HAS_STATISTICS = Statement("has_statistics", "SELECT pg_has_role('pg_read_all_stats', 'USAGE')")


@pytest.fixture
def as_role(database_url: str) -> Iterator[As]:
    """Yields a function that returns the URL of a role."""
    install(database_url)
    create_tables(database_url)
    with closing(GrantedRoles()) as roles:
        yield lambda role: roles.url_of(database_url, role)


@pytest.mark.parametrize("role", [Role.READER, Role.EMIT])
def test_a_reader_and_a_web_application_may_not_read_a_key(role: Role, as_role: As) -> None:
    with closing(Session(as_role(role), application_name="test")) as session:
        with pytest.raises(InsufficientPrivilege):
            read_keys(session)
        for table in sorted(KEYS):
            with pytest.raises(InsufficientPrivilege):
                session.command(f"SELECT * FROM sluice.{table}")


def test_a_reader_reads_everything_else_and_writes_nothing(as_role: As) -> None:
    with closing(Session(as_role(Role.READER), application_name="test")) as session:
        for table in rights_of(Role.READER):
            session.command(f"SELECT FROM sluice.{table}")
        session.command("SELECT FROM public.things")
        for statement in ("DELETE FROM sluice.queues", "DELETE FROM public.things"):
            with pytest.raises(InsufficientPrivilege):
                session.command(statement)


def test_a_web_application_emits_and_reads_nothing(as_role: As) -> None:
    engine = make_engine(as_role(Role.EMIT), poolclass=NullPool)
    with engine.begin() as connection:
        emit(connection, [Emit("orders", key="k", type="made", data={})])
    with engine.connect() as connection, pytest.raises(Exception, match="permission denied"):
        connection.exec_driver_sql("SELECT payload FROM sluice.outbox_events")


@pytest.mark.parametrize("role", RUN_BY, ids=lambda role: role.value)
def test_each_process_may_run_its_statements(role: Role, as_role: As) -> None:
    """EXPLAIN checks the rights on all tables, and runs nothing. So rare statements are checked, too."""
    refused = {}
    with closing(Session(as_role(role), application_name="test")) as session:
        for what in (*OF_ALL, *RUN_BY[role]):
            found = statements_of(what)
            assert found, f"{what} names no statement"
            for one in found:
                types = f"({', '.join(one.types)})" if one.types else ""
                nulls = f"({', '.join(['NULL'] * len(one.types))})" if one.types else ""
                session.command(f'PREPARE "{one.name}" {types} AS {one.text}')
                try:
                    session.command(f'EXPLAIN EXECUTE "{one.name}" {nulls}')
                except InsufficientPrivilege as error:
                    refused[one.name] = str(error).strip()
                session.command("DEALLOCATE ALL")
    assert refused == {}


def statements_of(what: str) -> list[Statement]:
    """Returns the statements that an entry of RUN_BY describes."""
    prefix, _, name = what.partition(":")
    modules = [
        import_module(found.name)
        for found in walk_packages(db.__path__, "sluice.db.")
        if found.name.startswith(f"sluice.db.{prefix}")
    ]
    return [
        one
        for module in modules
        for one in vars(module).values()
        if isinstance(one, Statement) and one.name.startswith(name)
    ]


def test_a_command_without_a_right_names_the_remedy(as_role: As) -> None:
    environ = {
        "SLUICE_DATABASE_URL": as_role(Role.READER),
        "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "SLUICE_HANDLERS": "examples.shop.handlers",
    }
    done = CliRunner().invoke(app, ["effects", "pause", "--reason", "test"], env=environ)
    assert done.exit_code == 2
    assert "permission denied for table" in done.output
    assert "`sluice grants --help`" in done.output


def test_a_worker_applies_batches_with_its_rights(as_role: As) -> None:
    with closing(Bench(as_role(Role.WORKER))) as bench:
        for offset in range(3):
            bench.apply(slice_of([thing_set(offset, f"k{offset}", offset)], prev=offset - 1))
        assert bench.amounts() == {"k0": 0, "k1": 1, "k2": 2}


def test_a_role_that_owns_no_table_finds_none_missing(as_role: As, database_url: str) -> None:
    registry = collect_handlers("examples.shop.handlers")
    init.create_tables(database_url, registry)
    assert init.missing_sql(as_role(Role.OPERATOR), registry) == ""


def test_tables_that_the_owner_creates_later_are_granted(as_role: As, database_url: str) -> None:
    url = as_role(Role.READER)
    run_script(database_url, "CREATE TABLE public.later AS SELECT 1 AS one")
    with closing(Session(url, application_name="test")) as session:
        assert session.run(Statement("one", "SELECT one FROM public.later")) == [(1,)]


def test_the_owner_and_a_superuser_may_run_the_statements(postgres: Stack) -> None:
    """Later tables of the owner are granted in both cases. Only the superuser can grant the statistics."""
    with owned_database(postgres.database_url()) as url:
        owner = make_url(url).username
        upgrade(url)
        for run, has_statistics in ((run_script, False), (run_as_superuser, True)):
            role = f"{owner}_reader_{has_statistics}"
            run_as_superuser(url, f'CREATE ROLE "{role}" LOGIN')
            try:
                run(url, "\n".join(grant_lines(Role.READER, role, schema_of(make_url(url)))))
                run_script(url, f'CREATE TABLE public."{role}" AS SELECT 1 AS one')
                as_reader = make_url(url).set(username=role).render_as_string()
                with closing(Session(as_reader, application_name="test")) as session:
                    assert session.run(Statement("one", f'SELECT one FROM public."{role}"')) == [(1,)]
                    assert session.run(HAS_STATISTICS) == [(has_statistics,)]
            finally:
                run_as_superuser(url, f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')
