"""Simulations of the situations in the operator's table. Each causes its situation, then applies the cure."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from redis import Redis
from sqlalchemy.engine import make_url

from sluice.testing.servers.databases import TEMPLATE
from sluice.testing.servers.processes import start_new
from tests.harness.clocks import WallClock, clock_of
from tests.system.admin.operators_table import RunningDeployment, run_on
from tests.system.serving import wait_alive
from tests.waiting import wait_until

DEAD = "127.0.0.1:1"  # No process listens at this port.
WHY = ("--reason", "a test")

Simulation = Generator[None, None, Mapping[str, str] | None]
"""Causes the situation, yields until the test has seen it, and applies the cure.

Returns the environment in which the commands must no longer report the situation.
"""
SITUATIONS: dict[str, Callable[[RunningDeployment], Simulation]] = {}


def situation(
    name: str,
) -> Callable[[Callable[[RunningDeployment], Simulation]], Callable[[RunningDeployment], Simulation]]:
    """Registers the simulation of one situation of the table."""

    def register(
        simulation: Callable[[RunningDeployment], Simulation],
    ) -> Callable[[RunningDeployment], Simulation]:
        SITUATIONS[name] = simulation
        return simulation

    return register


def _restarted(kind: str, work: RunningDeployment) -> Simulation:
    work.stop(kind)
    yield
    work.start(kind)
    return None


for _name, _kind in {
    "no bridge runs": "bridge",
    "no beat runs": "beat",
    "no relay runs": "relay",
    "no worker makes calls": "effects",
}.items():
    SITUATIONS[_name] = partial(_restarted, _kind)


@situation("a worker is frozen")
def frozen_worker(work: RunningDeployment) -> Simulation:
    frozen = work.processes["worker"]
    frozen.signal(signal.SIGSTOP)
    yield
    work.start("worker")
    frozen.kill()
    return None


@situation("no worker fills a generation")
def unfilled_generation(work: RunningDeployment) -> Simulation:
    work.stop("rebuild")
    work.sluice("rebuild", "start", "situation_totals", "--no-wait", *WHY)
    yield
    work.start("rebuild")
    return None


@situation("an outgoing topic is missing")
def missing_outgoing(work: RunningDeployment) -> Simulation:
    topic = f"told{work.deployment.topic_suffix}"
    work.produce(emit=topic)
    yield
    work.create_topic(topic)
    return None


def _refused_calls(work: RunningDeployment, calls: int) -> Simulation:
    work.set_wrong("refusing")
    for _ in range(calls):
        work.produce(f"told-{calls}", tell=True)
    yield
    work.set_right("refusing")
    work.sluice("effects", "retry", "--all", "--state", "failed", "--yes", *WHY)
    return None


SITUATIONS["a call failed"] = partial(_refused_calls, calls=1)
SITUATIONS["calls wait behind a failed one"] = partial(_refused_calls, calls=2)


@situation("events die in numbers")
def dying_events(work: RunningDeployment) -> Simulation:
    work.set_wrong("dying")
    for _ in range(4):
        work.produce(*(f"thing-{next(work.numbers)}" for _ in range(30)))
    yield
    work.set_right("dying")
    work.deployment.wait_settled()
    work.sluice("dlq", "redrive", "--all", "--yes", *WHY)
    return None


@situation("an event ends its worker")
def crashing_event(work: RunningDeployment) -> Simulation:
    work.stop("worker")
    work.set_wrong("crashing")
    supervisor = work.deployment.run.start_supervised_worker(name="crashing")
    work.produce("crash", crashes=True)
    wait_until(
        lambda: work.ask("SELECT * FROM sluice.handler_deaths"), timeout_seconds=60, what="a crash is noted"
    )
    supervisor.kill()
    yield
    work.set_right("crashing")
    work.start("worker")
    return None


def _terminate(work: RunningDeployment) -> None:
    """Runs the statements that `doctor` advises."""
    named = re.findall(r"SELECT pg_terminate_backend\(\d+\)", "\n".join(work.doctor()))
    for statement in set(named):
        work.ask(statement)


@situation("another session holds a row")
def held_row(work: RunningDeployment) -> Simulation:
    work.produce("held")
    work.deployment.wait_settled()
    with closing(work.open_psql("BEGIN", "SELECT FROM situation_things WHERE thing_id = 'held' FOR UPDATE")):
        work.produce("held", *(f"beside-{number}" for number in range(20)))
        yield
        _terminate(work)
    return None


@situation("a queue does not move")
def queue_that_stands(work: RunningDeployment) -> Simulation:
    with closing(work.open_psql("BEGIN", "SELECT FROM sluice.queues FOR UPDATE")):

        def messages_wait() -> bool:
            work.produce()
            return any(work.deployment.redis.llen(queue) > 1 for queue in ("thing.0", "thing.1"))

        wait_until(messages_wait, timeout_seconds=60, what="messages wait in Redis")
        yield
        _terminate(work)
    return None


@situation("an old transaction")
def old_transaction(work: RunningDeployment) -> Simulation:
    with closing(work.open_psql("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1")):
        yield
        _terminate(work)
    return None


def _set(work: RunningDeployment, setting: str) -> None:
    work.ask(f"ALTER SYSTEM SET {setting}")
    work.ask("SELECT pg_reload_conf()")


@situation("a synchronous standby is away")
def absent_standby(work: RunningDeployment) -> Simulation:
    _set(work, "synchronous_standby_names = 'absent'")
    yield
    _set(work, "synchronous_standby_names = ''")
    return None


@situation("Redis is full")
def full_redis(work: RunningDeployment) -> Simulation:
    with Redis.from_url(work.deployment.urls.redis_url) as redis:
        redis.config_set("maxmemory", "1mb")
        yield
        redis.config_set("maxmemory", "0")
    return None


@situation("a clock is wrong")
def wrong_clock(work: RunningDeployment) -> Simulation:
    run = work.deployment.run
    clock = WallClock(Path(run.folder), "clock", 5.2)
    before, run.start = run.start, start_new
    with clock_of(run, clock):
        process = run.start_relay(name="ahead")
    run.start = before
    wait_alive(work.deployment, process)
    yield
    clock.set(0.0)
    return None


@situation("a topic is missing")
def missing_topic(work: RunningDeployment) -> Simulation:
    run = work.deployment.run
    module = f"{run.handlers}_more"
    text = (work.folder / f"{run.handlers}.py").read_text()
    suffix = work.deployment.topic_suffix
    (work.folder / f"{module}.py").write_text(text.replace(suffix, f"{suffix}-more"))
    work.environ = {"SLUICE_HANDLERS": module}
    yield
    work.sluice("init")
    return dict(work.environ)


@situation("Kafka is not reached")
def dead_kafka(work: RunningDeployment) -> Simulation:
    work.environ = {"SLUICE_KAFKA_BOOTSTRAP_SERVERS": DEAD}
    yield
    return None


@situation("the password is wrong")
def wrong_password(work: RunningDeployment) -> Simulation:
    work.ask("CREATE ROLE outsider LOGIN PASSWORD 'right'")
    ((path,),) = work.ask("SHOW hba_file")
    file = Path(str(path))
    before = file.read_text()
    file.write_text(f"host all outsider 127.0.0.1/32 scram-sha-256\n{before}")
    work.ask("SELECT pg_reload_conf()")
    url = make_url(work.deployment.urls.database_url).set(username="outsider", password="wrong")
    work.environ = {"SLUICE_DATABASE_URL": url.render_as_string(hide_password=False)}
    yield
    file.write_text(before)
    work.ask("SELECT pg_reload_conf()")
    return None


@situation("Postgres can only be read")
def read_only(work: RunningDeployment) -> Simulation:
    database = make_url(work.deployment.urls.database_url).database
    work.ask(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on', "postgres")
    yield
    work.ask(f'ALTER DATABASE "{database}" RESET default_transaction_read_only', "postgres")
    return None


@situation("a disk of Postgres is full")
def full_disk(work: RunningDeployment) -> Simulation:
    assert os.geteuid() == 0, "run this test as root: it mounts a small disk and fills it"
    disk = Path(tempfile.mkdtemp(prefix="sluice-small-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    try:
        ((owner,),) = work.ask("SELECT current_setting('data_directory')")
        (data := disk / "data").mkdir()
        of = os.stat(str(owner))
        os.chown(data, of.st_uid, of.st_gid)
        os.chmod(disk, 0o755)
        work.ask(f"CREATE TABLESPACE small LOCATION '{data}'")
        work.ask("ALTER TABLE situation_things SET TABLESPACE small")
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        work.produce(*(f"large-{number}" for number in range(500)))
        yield
        filler.unlink()
        work.deployment.wait_settled()
        work.ask("ALTER TABLE situation_things SET TABLESPACE pg_default")
        work.ask("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
        shutil.rmtree(disk, ignore_errors=True)
    return None


@situation("the database is a copy")
def copied_database(work: RunningDeployment) -> Simulation:
    url = make_url(work.deployment.urls.database_url)
    work.ask(f'CREATE DATABASE copied TEMPLATE "{TEMPLATE}"', "postgres")
    with closing(work.open_psql()) as original:
        rows = run_on(original, "SELECT row_to_json(i)::text FROM sluice.installation i")
        keys = run_on(original, "SELECT row_to_json(k)::text FROM sluice.installation_keys k")
    for table, found in (("installation", rows), ("installation_keys", keys)):
        for (row,) in found:
            record = f"json_populate_record(NULL::sluice.{table}, '{row}')"
            work.ask(f"INSERT INTO sluice.{table} OVERRIDING SYSTEM VALUE SELECT * FROM {record}", "copied")
    work.environ = {"SLUICE_DATABASE_URL": url.set(database="copied").render_as_string()}
    yield
    work.sluice("init", "--new-installation", "--yes")
    return dict(work.environ)
