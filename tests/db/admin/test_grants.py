"""`sluice grants` gives each role what it needs, and no role of a reader the key that signs messages."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg2
import pytest
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sluice.admin import init
from sluice.admin.grants import KEYS, Role, grant_lines, rights_of
from sluice.db.connection import Session, Statement
from sluice.db.delivery.installation import read_keys
from sluice.tasks.api import Emit
from sluice.tasks.fold.registry import collect_handlers
from sluice.tasks.outbox.emit import emit
from tests.db.tasks.applying import Bench, create_tables, slice_of, thing_set
from tests.harness.stacks import install

As = Callable[[Role], str]


@contextmanager
def granted_roles(database_url: str) -> Iterator[As]:
    """Yields a function that makes a role with the rights of `sluice grants`, and returns its URL."""
    made: list[str] = []

    def make(role: Role) -> str:
        name = f"granted_{role.value}_{os.getpid()}"
        _run(database_url, f"CREATE ROLE {name} LOGIN")
        made.append(name)
        _run(database_url, "\n".join(grant_lines(role, name)))
        return make_url(database_url).set(username=name).render_as_string()

    try:
        yield make
    finally:
        for name in made:
            _run(database_url, f"DROP OWNED BY {name}; DROP ROLE {name}")


def _run(database_url: str, script: str) -> None:
    with closing(psycopg2.connect(database_url.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(script)


@pytest.fixture
def as_role(database_url: str) -> Iterator[As]:
    """Yields a function that returns the URL of a role."""
    install(database_url)
    create_tables(database_url)
    with granted_roles(database_url) as make:
        yield make


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
    engine = create_engine(as_role(Role.EMIT), poolclass=NullPool)
    with engine.begin() as connection:
        emit(connection, [Emit("orders", key="k", type="made", data={})])
    with engine.connect() as connection, pytest.raises(Exception, match="permission denied"):
        connection.exec_driver_sql("SELECT payload FROM sluice.outbox_events")


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
    _run(database_url, "CREATE TABLE public.later AS SELECT 1 AS one")
    with closing(Session(url, application_name="test")) as session:
        assert session.run(Statement("one", "SELECT one FROM public.later")) == [(1,)]
