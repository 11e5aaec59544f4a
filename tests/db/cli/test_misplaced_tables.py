"""User tables that were created in the schema of Sluice, because the role has the same name as the schema."""

import re
from collections.abc import Callable
from functools import partial

import psycopg2
import pytest
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from sluice.admin import init
from sluice.admin.doctor.findings import Severity
from sluice.admin.table_drift import missing_findings
from sluice.cli.main import app
from sluice.db.admin.doctor_facts import read_user_columns
from sluice.db.admin.stored_tables import read_misplaced
from sluice.db.connection import Session
from sluice.kafka_io.config import build_kafka_python_admin
from tests.harness.stacks import install

DECLARED = {"users": frozenset({"id"}), "queues": frozenset[str](), "gone": frozenset[str]()}
TABLE = "users"  # This is a table of the shop.


def found(session: Session) -> list[tuple[Severity, str, str]]:
    """Returns what `doctor` reports about the tables in DECLARED."""
    named = missing_findings(
        DECLARED, read_user_columns(session), read_misplaced(session, DECLARED), schema=session.schema
    )
    return [(one.severity, one.problem, one.advice) for one in named if "gone" not in one.problem]


def follow(session: Session, advice: str, pattern: str) -> None:
    [statement] = [one for one in re.findall("`([^`]*)`", advice) if pattern in one]
    session.command(statement)


def test_the_advice_corrects_tables_of_a_role_named_like_the_schema(
    database_url: str, session: Session
) -> None:
    install(database_url)
    url = make_url(database_url)
    role = session.schema
    session.command(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN SUPERUSER")

    def make_table(name: str) -> None:
        with psycopg2.connect(host=url.host, port=url.port, dbname=url.database, user=role) as connection:
            connection.cursor().execute(f"CREATE TABLE {name} (id text PRIMARY KEY)")
        connection.close()

    make_table("users")
    [(severity, problem, advice)] = [one for one in found(session) if "users" in one[1]]
    assert (severity, problem) == (
        Severity.ERROR,
        f"Table users is in schema {role}, which is Sluice's own: no handler can use it.",
    )
    follow(session, advice, "SET SCHEMA")
    assert [one for one in found(session) if "users" in one[1]] == []
    make_table("users")
    [(severity, problem, advice)] = [one for one in found(session) if "users" in one[1]]
    assert severity is Severity.WARNING
    assert f"also in schema {role}" in problem
    follow(session, advice, "DROP TABLE")
    follow(session, advice, "ALTER ROLE")
    make_table("later")
    assert read_misplaced(session, ["users", "later"]) == []
    session.command(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_table_of_sluice_is_not_reported_as_misplaced(database_url: str, session: Session) -> None:
    install(database_url)
    [(_, problem, _)] = [one for one in found(session) if "queues" in one[1]]
    assert problem == "Table queues is missing in schema public."


@pytest.mark.parametrize("names", [[], ["users"]])
def test_without_the_schema_of_sluice_no_table_is_misplaced(session: Session, names: list[str]) -> None:
    assert read_misplaced(session, names) == []


@pytest.fixture
def run_init(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Returns a function that runs `sluice init` without Kafka and returns its stderr."""
    build = partial(build_kafka_python_admin, bootstrap_timeout_ms=200)
    monkeypatch.setattr(init, "build_kafka_python_admin", build)
    environ = {
        "SLUICE_DATABASE_URL": database_url,
        "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "SLUICE_HANDLERS": "examples.shop.handlers",
    }
    return lambda: CliRunner().invoke(app, ["init"], env=environ).stderr


def test_init_creates_no_table_beside_a_misplaced_table(
    session: Session, database_url: str, run_init: Callable[[], str]
) -> None:
    install(database_url)
    session.command(f"CREATE TABLE sluice.{TABLE} (id text PRIMARY KEY)")
    assert f"Run `ALTER TABLE {session.schema}.{TABLE} SET SCHEMA public;`" in run_init()
    assert TABLE not in read_user_columns(session)
    session.command(f"ALTER TABLE sluice.{TABLE} SET SCHEMA public")
    assert "Kafka" in run_init()
