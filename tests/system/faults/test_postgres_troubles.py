"""Failures of Postgres lose no event and make no dead letter. Processing continues without an operator."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from examples.shop.generate import generate
from sluice.runtime.service_urls import StackUrls
from sluice.stack.postgres_server import SUPERUSER
from sluice.testing.servers.deployment import Deployment
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.cutting_proxy import CuttingProxy, When
from tests.system.faults.load import assert_equals_the_oracle
from tests.waiting import wait_until

EVENTS = 3_000


@pytest.fixture
def admin(database_url: str) -> Iterator[psycopg2.extensions.connection]:
    """Yields a connection of the test. No process of Sluice uses this connection."""
    made = _connect(database_url)
    yield made
    made.close()


def _connect(database_url: str) -> psycopg2.extensions.connection:
    url = make_url(database_url)
    # Only a superuser may end the sessions of all roles.
    made = psycopg2.connect(
        host=url.host, port=url.port, user=SUPERUSER, dbname=url.database, application_name="trouble"
    )
    made.autocommit = True
    return made


def _ask(admin: psycopg2.extensions.connection, statement: str) -> list[tuple[object, ...]]:
    with admin.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


WORKERS = "datname = current_database() AND application_name = 'sluice worker'"


def terminate(admin: psycopg2.extensions.connection) -> None:
    """Terminates all sessions of workers and bridges."""
    _ask(
        admin,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name IN ('sluice worker', 'sluice bridge')",
    )


def cancel(admin: psycopg2.extensions.connection) -> None:
    """Cancels the running statements of the workers, as a timeout would."""
    _ask(admin, f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {WORKERS}")


def start_retries(deployment: Deployment) -> None:
    """Starts the relay and the beat. With them, idle queues also retry the events that were set aside."""
    deployment.run.start_relay()
    deployment.run.start_beat()


def run_with_trouble(deployment: Deployment, trouble: Callable[[], None], times: int) -> None:
    """Produces events in several turns. In each turn, causes the trouble while workers apply the events."""
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    start_retries(deployment)
    for turn in range(times):
        before = sum(deployment.outcomes().values())
        deployment.produce(mixed_events(EVENTS // times, seed=turn))
        deployment.wait_until(
            lambda before=before: sum(deployment.outcomes().values()) > before,  # type: ignore[misc]
            timeout_seconds=60,
            what=f"events are applied in turn {turn}",
        )
        trouble()
    deployment.wait_settled(timeout_seconds=120)
    _assert_harmless(deployment)


def _assert_harmless(deployment: Deployment) -> None:
    assert_equals_the_oracle(deployment)
    with deployment.session.connection.cursor() as cursor:
        cursor.execute("SELECT error_class, error_text FROM sluice.dead_letters WHERE outcome = 'dead'")
        assert cursor.fetchall() == []


@pytest.mark.parametrize("trouble", [terminate, cancel])
def test_terminated_sessions_and_cancelled_statements_make_no_dead_letter(
    make_deployment: MakeDeployment,
    admin: psycopg2.extensions.connection,
    trouble: Callable[[psycopg2.extensions.connection], None],
) -> None:
    run_with_trouble(make_deployment(), lambda: trouble(admin), times=6)


@pytest.mark.soak
@pytest.mark.own("postgres")
def test_a_killed_backend_restarts_postgres_and_makes_no_dead_letter(
    make_deployment: MakeDeployment, database_url: str
) -> None:
    deployment = make_deployment()

    def kill() -> None:
        admin = _connect(database_url)
        for (pid,) in _ask(admin, f"SELECT pid FROM pg_stat_activity WHERE {WORKERS} LIMIT 1"):
            os.kill(int(str(pid)), signal.SIGKILL)
        # After the kill of one backend, the server ends all other backends and recovers.
        wait_until(lambda: _is_broken(admin), timeout_seconds=30, what="Postgres ends the sessions")
        admin.close()
        deployment.session.close()
        wait_until(lambda: _answers(database_url), timeout_seconds=60, what="Postgres answers")

    run_with_trouble(deployment, kill, times=2)


def test_a_row_locked_longer_than_the_lock_timeout_makes_no_dead_letter(
    make_deployment: MakeDeployment, admin: psycopg2.extensions.connection, database_url: str
) -> None:
    deployment = make_deployment()
    deployment.produce(generate("stock", count=300, seed=1, keys=10))
    deployment.run.start_bridge()
    worker = deployment.run.start_worker(deployment.queues())
    start_retries(deployment)
    deployment.wait_settled()
    holder = _connect(database_url)
    _ask(holder, "BEGIN")
    _ask(holder, "SELECT FROM public.stock FOR UPDATE")
    deployment.produce(generate("stock", count=300, seed=2, keys=10))
    wait_until(
        lambda: "lock timeout" in worker.log.read_text(),
        timeout_seconds=60,
        what="the worker reports the lock timeout",
    )
    _ask(holder, "COMMIT")
    holder.close()
    deployment.wait_settled(timeout_seconds=120)
    _assert_harmless(deployment)


@pytest.mark.soak
@pytest.mark.own("postgres")
def test_a_postgres_without_free_connections_makes_no_dead_letter(
    make_deployment: MakeDeployment, admin: psycopg2.extensions.connection, database_url: str
) -> None:
    deployment = make_deployment()
    deployment.run.start_bridge()
    worker = deployment.run.start_worker(deployment.queues())
    deployment.produce(mixed_events(500, seed=1))
    deployment.wait_settled()
    with ExitStack() as taken:
        terminate(admin)
        _take_all_connections(database_url, taken)
        terminate(admin)
        _take_all_connections(database_url, taken)
        deployment.produce(mixed_events(500, seed=2))
        wait_until(
            lambda: "too many clients" in worker.log.read_text(),
            timeout_seconds=60,
            what="no connection is free",
        )
    deployment.session.close()
    deployment.wait_settled(timeout_seconds=120)
    _assert_harmless(deployment)


def _take_all_connections(database_url: str, taken: ExitStack) -> None:
    while True:
        try:
            taken.callback(_connect(database_url).close)
        except psycopg2.OperationalError:
            return


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_to_a_commit_makes_no_dead_letter(
    make_deployment: MakeDeployment, database_url: str, tmp_path: Path, when: When
) -> None:
    deployment = make_deployment()
    url = make_url(database_url)
    assert url.host is not None
    assert url.port is not None
    proxy = CuttingProxy(url.host, url.port)
    urls = StackUrls(
        url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False),
        deployment.urls.redis_url,
        deployment.urls.kafka_bootstrap_servers,
    )
    behind = replace(deployment.run, urls=urls, folder=tmp_path / "behind", processes=[])
    try:
        with behind:
            deployment.run.start_bridge()
            behind.start_worker(deployment.queues())
            deployment.produce(mixed_events(500, seed=1))
            deployment.wait_settled()
            proxy.arm(*[when] * 5)
            deployment.produce(mixed_events(EVENTS, seed=2))
            deployment.wait_settled(timeout_seconds=120)
            assert not proxy.left
    finally:
        proxy.close()
    _assert_harmless(deployment)


@pytest.mark.soak
@pytest.mark.own("postgres")
def test_a_full_disk_makes_no_dead_letter(
    make_deployment: MakeDeployment, admin: psycopg2.extensions.connection
) -> None:
    assert os.geteuid() == 0, "run the soak as root: this test mounts a small disk and fills it"
    deployment = make_deployment()
    disk = Path(tempfile.mkdtemp(prefix="sluice-small-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    try:
        ((owner,),) = _ask(admin, "SELECT current_setting('data_directory')")
        data = disk / "data"
        data.mkdir()
        of = os.stat(str(owner))
        os.chown(data, of.st_uid, of.st_gid)
        os.chmod(disk, 0o755)
        _ask(admin, f"CREATE TABLESPACE small LOCATION '{data}'")
        _ask(admin, "ALTER TABLE sluice.outbox_events SET TABLESPACE small")
        _ask(admin, "ALTER INDEX sluice.outbox_events_pkey SET TABLESPACE small")
        filler = disk / "filler"
        with filler.open("wb") as file:
            _fill(file)
        deployment.run.start_bridge()
        worker = deployment.run.start_worker(deployment.queues())
        deployment.produce(generate("orders", count=2_000, seed=1))
        wait_until(
            lambda: "No space left" in worker.log.read_text(), timeout_seconds=60, what="the disk is full"
        )
        filler.unlink()
        deployment.wait_settled(timeout_seconds=120)
        _assert_harmless(deployment)
    finally:
        deployment.run.stop_all()
        _ask(admin, "ALTER TABLE sluice.outbox_events SET TABLESPACE pg_default")
        _ask(admin, "ALTER INDEX sluice.outbox_events_pkey SET TABLESPACE pg_default")
        _ask(admin, "DROP TABLESPACE small")
        subprocess.run(["umount", str(disk)], check=True)
        shutil.rmtree(disk, ignore_errors=True)


def _fill(file: object) -> None:
    try:
        while True:
            file.write(b"\0" * 65_536)  # type: ignore[attr-defined]
            file.flush()  # type: ignore[attr-defined]
    except OSError:
        return


def _is_broken(connection: psycopg2.extensions.connection) -> bool:
    try:
        _ask(connection, "SELECT 1")
    except psycopg2.Error:
        return True
    return False


def _answers(database_url: str) -> bool:
    try:
        _connect(database_url).close()
    except psycopg2.OperationalError:
        return False
    return True
