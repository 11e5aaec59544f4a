"""Sessions mean the same, whatever the role, the database, the environment or a service file says."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from sluice.db.connect_failures import ConnectCause, ConnectFailed
from sluice.db.connection import SESSION_SETTINGS, Session, Statement
from sluice.db.migrations.migrate import upgrade
from sluice.db.session_settings import MEANINGS
from sluice.runtime.installation import InstallationRefused
from sluice.stack import Stack
from sluice.tasks.api import Emit
from sluice.tasks.outbox.emit import emit
from sluice.testing.servers.databases import drop_databases
from tests.harness.raw_sql import connect, make_engine
from tests.harness.stacks import install

HOSTILE = {
    "client_encoding": "LATIN1",
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "timezone": "America/St_Johns",
    "standard_conforming_strings": "off",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "xmloption": "document",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "search_path": "pg_temp, sluice",
    "statement_timeout": "7s",
    "lock_timeout": "7s",
    "idle_in_transaction_session_timeout": "7s",
    "jit": "on",
}
LETTERS = "Ж ☃ 'é' \\n"
ROLE = f"hostile_{os.getpid()}"


def _admin(url: URL, *statements: str) -> None:
    with closing(connect(url.render_as_string())) as made:
        made.autocommit = True
        with made.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def _set_all(what: str) -> list[str]:
    return [
        f"ALTER {what} SET {name} = {value if ',' in value else repr(value)}"
        for name, value in HOSTILE.items()
    ]


@pytest.fixture
def role(database_url: str) -> Iterator[str]:
    """Yields the URL of a superuser whose defaults are HOSTILE."""
    url = make_url(database_url)
    _admin(url, f"CREATE ROLE {ROLE} LOGIN SUPERUSER", *_set_all(f"ROLE {ROLE}"))
    yield url.set(username=ROLE).render_as_string()
    _admin(url, f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")


@pytest.fixture(params=["role", "database", "environment", "service", "options"])
def hostile_url(
    request: pytest.FixtureRequest, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Returns the URL of a session for which one party says HOSTILE."""
    url = make_url(database_url)
    words = " ".join(f"-c {name}={value.replace(' ', '')}" for name, value in HOSTILE.items())
    if request.param == "role":
        return str(request.getfixturevalue("role"))
    if request.param == "database":
        _admin(url, *_set_all(f'DATABASE "{url.database}"'))
    elif request.param == "environment":
        for name, value in (("PGOPTIONS", words), ("PGCLIENTENCODING", "LATIN1"), ("PGTZ", "Asia/Tokyo")):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PGDATESTYLE", "SQL, DMY")
        monkeypatch.setenv("PGTARGETSESSIONATTRS", "any")
    elif request.param == "service":
        (tmp_path / "services").write_text(f"[hostile]\noptions={words}\nclient_encoding=LATIN1\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        monkeypatch.setenv("PGSERVICE", "hostile")
    else:
        return url.update_query_dict({"options": words}).render_as_string()
    return database_url


def test_a_session_does_not_depend_on_defaults(hostile_url: str) -> None:
    own = {name: value for name, value in SESSION_SETTINGS.items() if not name.startswith("tcp_")}
    wanted = {**MEANINGS, **own, "client_encoding": "UTF8"}
    assert HOSTILE.keys() <= wanted.keys()
    with closing(Session(hostile_url, application_name="test")) as session:
        show = Statement("show", "SELECT name, current_setting(name) FROM unnest($1) name", ("text[]",))
        assert dict(session.run(show, list(wanted))) == wanted
        echo = Statement("echo", "SELECT $1 || 'a\\b', 0.1::float8 + 0.2::float8", ("text",))
        assert session.run(echo, LETTERS) == [(LETTERS + "a\\b", 0.1 + 0.2)]


def test_a_migration_does_not_depend_on_defaults(role: str) -> None:
    with closing(Session(role, application_name="test")) as session:
        session.command("DROP SCHEMA sluice CASCADE")
    upgrade(role)
    install(role, "hostile")


def test_a_role_that_may_only_read_by_default_is_refused(role: str, database_url: str) -> None:
    _admin(make_url(database_url), f"ALTER ROLE {ROLE} SET default_transaction_read_only = on")
    with closing(Session(role, application_name="test")) as session, pytest.raises(ConnectFailed) as caught:
        _ = session.connection
    assert caught.value.cause is ConnectCause.READ_ONLY


def test_emit_does_not_depend_on_the_settings_of_the_users_session(role: str, database_url: str) -> None:
    install(database_url)
    engine = make_engine(role, poolclass=NullPool)
    with engine.begin() as connection:
        shown = "SHOW client_encoding"
        assert connection.exec_driver_sql(shown).scalar() == "LATIN1"
        emit(connection, [Emit("orders", key=LETTERS, type="Ж", data={"letters": LETTERS})])
        assert connection.exec_driver_sql(shown).scalar() == "LATIN1"
    with closing(Session(database_url, application_name="test")) as session:
        read = Statement(
            "read", "SELECT key, type, convert_from(payload, 'UTF8')::jsonb FROM sluice.outbox_events"
        )
        assert session.run(read) == [(LETTERS, "Ж", {"letters": LETTERS})]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_init_refuses_a_database_with_another_encoding(encoding: str, postgres: Stack) -> None:
    server, name = make_url(postgres.database_url("postgres")), f"encoded_{os.getpid()}"
    made = f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
    _admin(server, made)
    url = server.set(database=name).render_as_string()
    try:
        with pytest.raises(InstallationRefused, match=f"encoding of the database is {encoding}"):
            upgrade(url)
    finally:
        drop_databases(server.render_as_string(), [name])
