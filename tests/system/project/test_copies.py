"""On a copied database, no process starts before an operator decides. A promoted standby is no copy."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import sql
from sqlalchemy.engine import URL, make_url

from examples.shop.generate import lines
from sluice.db.connection import Session
from sluice.runtime.service_urls import StackUrls
from sluice.stack import Stack
from sluice.stack.patience import patient
from sluice.stack.ports import LOOPBACK, choose_ports
from sluice.stack.postgres_files import find_programs, give_to, reachable_programs, server_user
from sluice.stack.postgres_server import SETTINGS, SUPERUSER
from sluice.stack.processes import group_of
from sluice.stack.service import ComponentMissing
from sluice.tasks.installation.opening import check_installation
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import LocalRun
from tests.harness.stacks import install
from tests.system.conftest import MakeDeployment
from tests.waiting import wait_until

COPIED = "this database is a copy of another database"
STEP_SECONDS = 120.0


def program(name: str, version: int | None = None) -> str:
    """Returns the path of a Postgres program. Skips the test if the program is not installed."""
    found = find_programs(version).bin / name
    if not found.exists():
        raise ComponentMissing(f"{name} is not installed beside Postgres")
    return str(found)


def run_as(user: str | None, *words: str) -> None:
    """Runs a Postgres program as a user."""
    subprocess.run(
        words,
        check=True,
        capture_output=True,
        timeout=patient(STEP_SECONDS),
        cwd="/",
        user=user,
        group=None if user is None else group_of(user),
        extra_groups=None if user is None else [],
    )


@contextmanager
def administering(url: URL) -> Iterator[psycopg2.extensions.cursor]:
    connection = psycopg2.connect(host=url.host, port=url.port, user=SUPERUSER, dbname="postgres")
    connection.autocommit = True
    with closing(connection), connection.cursor() as cursor:
        yield cursor


def dump_and_restore(original: URL, name: str) -> None:
    where = ["-h", str(original.host), "-p", str(original.port), "-U", SUPERUSER]
    dump = [program("pg_dump"), *where, "-Fc", str(original.database)]
    restore = [program("pg_restore"), *where, "--exit-on-error", "-d", name]
    with administering(original) as cursor:
        cursor.execute(_create_database(original, name))
    with subprocess.Popen(dump, stdout=subprocess.PIPE) as dumping:
        subprocess.run(restore, stdin=dumping.stdout, check=True, timeout=patient(STEP_SECONDS))
    assert dumping.returncode == 0


def _create_database(original: URL, name: str) -> sql.Composed:
    owner = sql.Identifier(str(original.username))
    return sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), owner)


def copy_as_template(original: URL, name: str) -> None:
    with administering(original) as cursor:
        template = sql.SQL(" TEMPLATE {}").format(sql.Identifier(str(original.database)))
        cursor.execute(_create_database(original, name) + template)


WAYS: dict[str, Callable[[URL, str], None]] = {"dump": dump_and_restore, "template": copy_as_template}


@pytest.fixture(params=WAYS)
def copied(
    request: pytest.FixtureRequest, make_deployment: MakeDeployment, tmp_path: Path
) -> Iterator[Deployment]:
    """Yields a deployment on a copy of another deployment's database. Both use the same Redis and Kafka."""
    original = make_deployment(partitions=1)
    original.close()
    url = make_url(original.urls.database_url)
    name = f"{url.database}_copy"
    WAYS[request.param](url, name)
    copy_url = url.set(database=name).render_as_string(hide_password=False)
    urls = StackUrls(copy_url, original.urls.redis_url, original.urls.kafka_bootstrap_servers)
    with replace(original.run, urls=urls, folder=tmp_path / "copy", processes=[]) as run:
        deployment = Deployment(urls, original.registry, run, topic_suffix=original.topic_suffix)
        yield deployment
        run.stop_all()
        deployment.close()
    with administering(url) as cursor:
        cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def require_all_refuse(run: LocalRun, sentence: str) -> None:
    """Asserts that processes exit and that commands fail, each with this sentence in its output."""
    processes = [run.start_bridge(), run.start_worker(), run.start_relay(), run.start_beat()]
    for process in processes:
        wait_until(
            lambda one=process: one.exit_code is not None,  # type: ignore[misc]
            timeout_seconds=STEP_SECONDS,
            what=f"{process.name} ends",
        )
        assert process.exit_code != 0, process.name
        assert sentence in process.log.read_text(), process.name
    for words in (("init",), ("effects", "pause", "--reason", "test")):
        done = run.sluice(*words)
        assert done.returncode == 2, words
        assert sentence in done.stderr.decode(), words


def test_no_process_starts_on_a_copy(copied: Deployment) -> None:
    require_all_refuse(copied.run, COPIED)


def test_no_process_starts_under_another_name(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment(partitions=1)
    deployment.run.environment = {**deployment.run.environment, "SLUICE_NAME": "other"}
    require_all_refuse(deployment.run, "set SLUICE_NAME=sluice")


@pytest.mark.parametrize("option", ["--moved", "--new-installation"])
def test_a_copy_applies_events_after_an_operator_has_decided(copied: Deployment, option: str) -> None:
    run = copied.run
    before = copied.installation
    run.run_sluice("init", option, "--yes")
    del copied.installation
    assert (copied.installation.id == before.id) is (option == "--moved")
    run.start_bridge()
    run.start_worker()
    users = f"users{copied.topic_suffix}"
    made = "\n".join(lines("users", count=5, seed=1, topic=users)).encode()
    assert run.sluice("send", "-", given=made).returncode == 0
    copied.wait_settled()
    assert copied.outcomes("users")["applied"] > 0


@pytest.mark.matrix
@pytest.mark.own("postgres")
def test_a_promoted_standby_needs_no_decision(database_url: str, postgres: Stack) -> None:
    original = install(database_url)
    url = make_url(database_url)
    user = server_user()
    [data] = [status.data_dir for status in postgres.status() if status.name == "postgres"]
    version = int((data / "PG_VERSION").read_text())
    programs = reachable_programs(find_programs(version), user, data.parent)
    program("pg_basebackup", version)
    folder = data.with_name("standby")
    backup = [str(programs.bin / "pg_basebackup"), "-h", LOOPBACK, "-p", str(url.port), "-U", SUPERUSER]
    folder.mkdir()
    give_to(user, folder)
    run_as(user, *backup, "-D", str(folder), "-X", "stream", "--write-recovery-conf", "--checkpoint=fast")
    port = choose_ports(("postgres",), {}, set())["postgres"]
    # The limits of a standby must not be lower than the limits of its primary.
    options = [f"{name}={value}" for name, value in (SETTINGS | {"port": str(port)}).items()]
    server = subprocess.Popen(
        [str(programs.bin / "postgres"), "-D", str(folder), *(w for o in options for w in ("-c", o))],
        user=user,
        group=None if user is None else group_of(user),
        extra_groups=None if user is None else [],
        cwd="/",
        stderr=subprocess.DEVNULL,
    )
    try:
        control = str(programs.bin / "pg_ctl")
        wait_until(lambda: answers(url.set(port=port)), timeout_seconds=60, what="the standby answers")
        run_as(user, control, "promote", "-D", str(folder), "-w")
        promoted = url.set(port=port).render_as_string(hide_password=False)
        with closing(Session(promoted, application_name="test standby")) as session:
            assert check_installation(session, name="sluice").installation == original
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def answers(url: URL) -> bool:
    try:
        with administering(url):
            return True
    except psycopg2.OperationalError:
        return False
