"""If a server refuses its settings, a process exits with one sentence. During an outage, it waits."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy.engine import make_url

from sluice.db.pooler_check import SHARED, SHARED_ADVICE
from sluice.runtime.service_urls import StackUrls
from sluice.stack import Stack
from sluice.testing.servers.local_run import LocalRun, RunningProcess
from sluice.testing.servers.processes import Start
from tests.harness.pgbouncer import pgbouncer
from tests.harness.stacks import install
from tests.waiting import wait_until

SHOP = "examples.shop.handlers"
NOWHERE = "127.0.0.1:1"
PROCESSES: dict[str, Callable[[LocalRun], RunningProcess]] = {
    "bridge": lambda run: run.start_bridge(),
    "celery worker": lambda run: run.start_worker(["order.0"]),
    "sluice worker": lambda run: run.start_supervised_worker(),
    "effects": lambda run: run.start_supervised_worker(command="effects-worker"),
    "relay": lambda run: run.start_supervised_worker(command="relay"),
    "rebuild": lambda run: run.start_supervised_worker(command="rebuild-worker"),
    "beat": lambda run: run.start_beat(),
    "celery inspect": lambda run: run.start_celery("inspect", "ping"),
}
FEW = ("bridge", "sluice worker", "beat")
"""The processes that every test run starts. The matrix starts the others."""
MakeRun = Callable[[str, str], LocalRun]


@pytest.fixture
def make_run(tmp_path: Path, start: Start) -> Iterator[MakeRun]:
    """Yields a function that makes runners with these addresses of Postgres and Redis, and without Kafka."""
    made: list[LocalRun] = []

    def make(database_url: str, redis_url: str) -> LocalRun:
        run = LocalRun(StackUrls(database_url, redis_url, NOWHERE), tmp_path, SHOP, start=start)
        made.append(run.__enter__())
        return run

    yield make
    for run in made:
        run.stop_all()


def end_of(process: RunningProcess) -> str:
    """Waits until a process has ended. Returns the log of the process."""
    wait_until(lambda: process.exit_code is not None, timeout_seconds=60, what=f"{process.name} ends")
    return process.log.read_text()


def some(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.matrix] * (name not in FEW)) for name in names]


@pytest.mark.all_rights("no role can be made in a missing database")
@pytest.mark.parametrize("process", some(PROCESSES))
def test_a_process_with_a_wrong_database_exits_with_one_sentence(
    process: str, make_run: MakeRun, database_url: str, redis_url: str
) -> None:
    url = make_url(database_url).set(database="missing", password="not to be shown")
    run = make_run(url.render_as_string(hide_password=False), redis_url)
    written = end_of(started := PROCESSES[process](run))
    assert started.exit_code == (2 if process == "bridge" else 1)
    assert (
        f"cannot connect to 127.0.0.1:{url.port} (database missing, user {url.username}): FATAL: database"
        in written
    )
    assert "Traceback" not in written
    assert "not to be shown" not in written
    assert "waiting" not in written


@pytest.mark.own("redis")
@pytest.mark.all_rights("no role can be made in a database without tables")
def test_a_process_with_a_wrong_redis_password_exits_with_one_sentence(
    make_run: MakeRun, database_url: str, redis: Stack, start: Start
) -> None:
    install(database_url)
    address = redis.redis_url()
    with Redis.from_url(address) as client:
        client.config_set("requirepass", "right")
        client.auth("right")
        for url in (address, address.replace("redis://", "redis://:not-to-be-shown@")):
            run = make_run(database_url, url)
            for started in [PROCESSES[kind](run) for kind in (*FEW, "celery worker")]:
                written = end_of(started)
                assert started.exit_code not in (0, None), started.name
                assert f"cannot use {address.removeprefix('redis://')}: " in written
                assert "correct the user or the password in SLUICE_REDIS_URL" in written
                assert "Traceback" not in written
                assert "not-to-be-shown" not in written
        client.config_set("requirepass", "")


@pytest.mark.all_rights("PgBouncer lists its users in a file")
@pytest.mark.parametrize(
    "kinds", [FEW, pytest.param(tuple(PROCESSES), marks=pytest.mark.matrix)], ids=["few", "all"]
)
def test_each_process_refuses_pgbouncer_in_transaction_mode_in_one_sentence(
    kinds: Iterable[str], make_run: MakeRun, database_url: str, redis_url: str
) -> None:
    install(database_url)
    with pgbouncer(database_url, "transaction") as pooled:
        run = make_run(pooled, redis_url)
        for process in [PROCESSES[kind](run) for kind in kinds]:
            written = end_of(process)
            assert process.exit_code not in (0, None), process.name
            assert f"{SHARED}; {SHARED_ADVICE}" in written
            assert "Traceback" not in written
            assert "waiting" not in written


@pytest.mark.all_rights("no role can be made on an absent server")
@pytest.mark.parametrize("process", some(name for name in PROCESSES if name != "celery inspect"))
def test_a_process_waits_for_an_unreachable_postgres_and_logs_its_address(
    process: str, make_run: MakeRun
) -> None:
    run = make_run("postgresql+psycopg2://alice@127.0.0.1:1/shop", "redis://127.0.0.1:1/0")
    started = PROCESSES[process](run)
    waiting = "cannot connect to 127.0.0.1:1 (database shop, user alice): Connection refused"
    wait_until(lambda: waiting in started.log.read_text(), timeout_seconds=60, what=f"{process} waits")
    assert started.exit_code is None
    assert started.log.read_text().count("waiting for Postgres") == 1
