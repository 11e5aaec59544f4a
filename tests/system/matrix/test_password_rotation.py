"""The password of the processes' role changes under load, on a server that checks passwords with SCRAM."""

import os
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import URL, make_url

from sluice.db.connection import Session, Statement
from tests.harness.granted_roles import run_as_superuser
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import SteadyLoad, assert_equals_the_oracle
from tests.waiting import wait_until

pytestmark = [pytest.mark.matrix, pytest.mark.own("postgres")]

ROLE = "rotating"
RATE = 50
PASSWORDS = ("first", "p@ss/word?#1", "%25'\"\\ :2", "third")
PROVIDER = """\
from pathlib import Path


def password() -> str:
    return Path({path!r}).read_text()
"""
SHOW_RULES = Statement("show_rules", "SELECT current_setting('hba_file')")


def require_password(database_url: str, password: str) -> URL:
    """Makes a role with the rights of the user in the URL, which must send its password.

    Returns the URL of this role, without the password.
    """
    url = make_url(database_url)
    with closing(Session(database_url, application_name="test")) as session:
        [(path,)] = session.run(SHOW_RULES)
    rules = Path(path)
    rules.write_text(f"host all {ROLE} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
    run_as_superuser(
        database_url, f"CREATE ROLE {ROLE} LOGIN IN ROLE {url.username}; SELECT pg_reload_conf()"
    )
    set_password(database_url, password)
    role = url.set(username=ROLE)
    wait_until(lambda: _is_refused(role), timeout_seconds=30, what="the server checks the password")
    return role


def _is_refused(url: URL) -> bool:
    wrong = url.set(drivername="postgresql", password="wrong").render_as_string(hide_password=False)
    try:
        psycopg2.connect(wrong).close()
    except psycopg2.OperationalError as error:
        return "password authentication failed" in str(error)
    return False


def set_password(database_url: str, password: str) -> None:
    """Changes the password of the role, and ends the role's connections, as a failover or a restart would."""
    quoted = password.replace("'", "''")
    run_as_superuser(database_url, f"ALTER ROLE {ROLE} PASSWORD '{quoted}'")
    run_as_superuser(
        database_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'"
    )


@pytest.mark.parametrize("source", ["file", "provider"])
def test_a_password_changes_under_load(
    make_deployment: MakeDeployment, database_url: str, tmp_path: Path, source: str
) -> None:
    file = tmp_path / "password"

    def write(password: str) -> None:
        fresh = tmp_path / "password.new"
        fresh.write_text(password)
        os.replace(fresh, file)

    write(PASSWORDS[0])
    (tmp_path / "rotating_provider.py").write_text(PROVIDER.format(path=str(file)))
    settings = {
        "file": {"SLUICE_DATABASE_PASSWORD_FILE": str(file)},
        "provider": {"SLUICE_DATABASE_PASSWORD_PROVIDER": "rotating_provider:password"},
    }[source]
    url = require_password(database_url, PASSWORDS[0]).render_as_string()
    deployment = make_deployment(SLUICE_DATABASE_URL=url, **settings)
    run = deployment.run
    started = [run.start_bridge(), run.start_worker(), run.start_worker(name="worker-2"), run.start_relay()]
    started.append(run.start_beat())

    def settled() -> int:
        return deployment.outcomes().total()

    with SteadyLoad(deployment, lambda count, first: mixed_events(count, seed=first), rate=RATE) as load:
        wait_until(lambda: settled() > RATE, timeout_seconds=60, what="events are applied")
        for number, password in enumerate(PASSWORDS[1:]):
            # The new password is first in Postgres or first in the file.
            steps = [lambda new=password: set_password(database_url, new), lambda new=password: write(new)]
            for step in steps if number % 2 else reversed(steps):
                step()
            set_password(database_url, password)
            sent = load.sent
            wait_until(
                lambda sent=sent: settled() > sent + 2 * RATE,  # type: ignore[misc]
                timeout_seconds=60,
                what=f"events are applied after change {number + 1}",
            )
    deployment.wait_settled(timeout_seconds=120)
    deployment.wait_sent(timeout_seconds=120)
    assert [process.exit_code for process in started] == [None] * len(started)
    assert_equals_the_oracle(deployment)
    logs = "".join(log.read_text(errors="replace") for log in tmp_path.rglob("*.log"))
    assert not [password for password in PASSWORDS[1:3] if password in logs]
