"""The stack with real servers restarts killed servers and ends only the servers that it started."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg2
import pytest
import redis as redis_client
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from sqlalchemy.engine import make_url

from sluice.stack import Stack, StackError, local, postgres_server
from sluice.stack.kafka_jars import KAFKA_VERSION, cache_folder, fetch_jars
from sluice.stack.kafka_metadata import lists_itself
from sluice.stack.patience import patient
from sluice.stack.ports import LOOPBACK
from sluice.stack.processes import start_time
from tests.waiting import wait_until

PROJECT = Path(__file__).resolve().parents[3]

START_ONE_UP = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from sluice.stack import Stack
stack = Stack(Path(sys.argv[1]))
for name in sys.argv[2:]:
    stack.start(name)
print(json.dumps([[s.name, s.state, s.pid, s.port] for s in stack.status()]))
"""


def pids(stack: Stack) -> dict[str, int | None]:
    return {service.name: service.pid for service in stack.status()}


def states(stack: Stack) -> set[str]:
    return {service.state for service in stack.status()}


def exists(pid: int) -> bool:
    return start_time(pid) is not None


def put_marks(stack: Stack) -> None:
    """Stores a mark in each service, which `marks` reads later."""
    admin = KafkaAdminClient(bootstrap_servers=stack.kafka_bootstrap_servers())
    admin.create_topics([NewTopic(name="mark", num_partitions=1, replication_factor=1)])
    admin.close()
    run_sql(stack, "CREATE TABLE mark ()")
    with redis_client.Redis.from_url(stack.redis_url()) as client:
        client.set("mark", "here")


def marks(stack: Stack) -> list[str]:
    admin = KafkaAdminClient(bootstrap_servers=stack.kafka_bootstrap_servers())
    topics = admin.list_topics()
    admin.close()
    run_sql(stack, "SELECT FROM mark")
    with redis_client.Redis.from_url(stack.redis_url()) as client:
        return [*topics, *client.scan_iter()]


def run_sql(stack: Stack, statement: str) -> None:
    connection = psycopg2.connect(stack.database_url().replace("+psycopg2", ""))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


def test_up_restarts_killed_servers_and_down_ends_all_servers(own_stack: Stack) -> None:
    urls = own_stack.up()
    assert states(own_stack) == {"running"}
    first = pids(own_stack)
    assert own_stack.up() == urls
    assert pids(own_stack) == first, "up must not restart a running server"

    put_marks(own_stack)
    for pid in first.values():
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    assert own_stack.up() == urls, "the ports must stay the same"
    second = pids(own_stack)
    assert states(own_stack) == {"running"}
    assert not set(first.values()) & set(second.values())
    assert marks(own_stack) == ["mark", b"mark"]

    own_stack.down()
    assert states(own_stack) == {"stopped"}
    assert not [pid for pid in second.values() if pid is not None and exists(pid)]
    own_stack.down()


def test_two_concurrent_starts_make_one_stack(own_stack: Stack) -> None:
    both = [start_elsewhere(own_stack.root, "redis", "postgres") for _ in range(2)]
    answers = [json.loads(one.communicate(timeout=patient(120))[0]) for one in both]
    assert answers[0] == answers[1]
    assert {name: pid for name, _, pid, _ in answers[0]} == pids(own_stack)


def test_services_outlive_the_process_that_started_them(own_stack: Stack) -> None:
    starter = start_elsewhere(own_stack.root, "redis")
    starter.communicate(timeout=patient(60))
    assert starter.returncode == 0
    pid = pids(own_stack)["redis"]
    assert pid is not None
    assert os.getsid(pid) == pid, "the server must have its own session"


@pytest.mark.matrix
def test_a_server_that_hangs_is_killed_and_started_again(own_stack: Stack) -> None:
    own_stack.start("redis")
    hanging = pids(own_stack)["redis"]
    assert hanging is not None
    os.kill(hanging, signal.SIGSTOP)
    assert "silent" in states(own_stack)
    own_stack.start("redis")
    assert pids(own_stack)["redis"] not in (hanging, None)
    assert not exists(hanging)


def test_a_broker_is_ready_when_it_lists_itself_at_its_own_address(own_stack: Stack) -> None:
    own_stack.start("kafka")
    own_stack.start("redis")
    running = {service.name: service for service in own_stack.status()}
    broker, redis = running["kafka"], running["redis"]
    port = broker.port
    assert port is not None
    assert broker.pid is not None
    assert redis.port is not None
    assert lists_itself(LOOPBACK, port, timeout_seconds=10)
    assert not lists_itself("localhost", port, timeout_seconds=10), "the broker does not advertise this host"
    assert not lists_itself(LOOPBACK, redis.port, timeout_seconds=0.5), "the port of Redis counts as a broker"
    os.kill(broker.pid, signal.SIGSTOP)
    # The threads of the broker stop one after the other.
    wait_until(
        lambda: not lists_itself(LOOPBACK, port, timeout_seconds=0.5),
        timeout_seconds=30,
        what="the suspended broker does not count as ready",
    )
    os.kill(broker.pid, signal.SIGKILL)
    own_stack.stop("kafka", signal="kill")
    assert not lists_itself(LOOPBACK, port, timeout_seconds=10), "an ended broker counts as ready"


def test_another_process_with_the_recorded_pid_is_not_ended(own_stack: Stack) -> None:
    own_stack.start("redis")
    own_stack.stop("redis", signal="kill")
    bystander = subprocess.Popen(["sleep", "300"])
    try:
        file = own_stack.root / "state.json"
        state = json.loads(file.read_text())
        state["redis"]["process"]["pid"] = bystander.pid
        file.write_text(json.dumps(state))
        own_stack.start("redis")
        own_stack.down()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_redis_can_be_restarted_empty(own_stack: Stack) -> None:
    own_stack.start("redis")
    with redis_client.Redis.from_url(own_stack.redis_url()) as client:
        client.set("kept", "yes")
        own_stack.stop("redis")
        own_stack.start("redis")
        assert client.get("kept") == b"yes"
        own_stack.stop("redis", signal="kill")
        own_stack.start("redis", wipe=True)
        assert client.get("kept") is None


@pytest.mark.matrix
def test_postgres_can_be_restored_to_an_older_copy_of_its_data(own_stack: Stack, tmp_path: Path) -> None:
    own_stack.start("postgres")
    own_stack.stop("postgres")
    data = own_stack.data_dir("postgres")
    shutil.copytree(data, tmp_path / "older")
    own_stack.start("postgres")
    run_sql(own_stack, "CREATE TABLE lost ()")
    own_stack.stop("postgres", signal="immediate")
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "older", data)
    own_stack.start("postgres")
    with pytest.raises(psycopg2.errors.UndefinedTable):
        run_sql(own_stack, "SELECT FROM lost")


def test_data_of_the_former_superuser_keeps_its_owner_and_url(
    own_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as former:
        for module in (local, postgres_server):
            former.setattr(module, "SUPERUSER", "sluice")
        own_stack.start("postgres")
        url = own_stack.database_url()
        assert url.startswith("postgresql+psycopg2://sluice@")
        run_sql(own_stack, "CREATE TABLE mark (); CREATE SCHEMA sluice; CREATE TABLE lost ()")
        own_stack.stop("postgres")
    own_stack.start("postgres")
    for role in ("app", "sluice"):
        at = make_url(own_stack.database_url()).set(username=role)
        with psycopg2.connect(at.set(drivername="postgresql").render_as_string()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"CREATE TABLE by_{role} ()")
            cursor.execute("SELECT schemaname || '.' || tablename, tableowner FROM pg_tables ORDER BY 1")
            found = dict(row for row in cursor if "pg_" not in row[0] and "information" not in row[0])
        connection.close()
    assert found == {
        "public.by_app": "app",
        "public.by_sluice": "sluice",
        "public.mark": "app",
        "sluice.lost": "app",
    }
    own_stack.start("postgres")


@pytest.mark.matrix
def test_a_server_that_cannot_start_is_reported_with_its_log(own_stack: Stack) -> None:
    own_stack.start("postgres")
    own_stack.stop("postgres")
    (own_stack.data_dir("postgres") / "global" / "pg_control").write_bytes(b"broken")
    with pytest.raises(StackError, match=r"(?s)server\.log ends:.*pg_control"):
        own_stack.start("postgres")


def test_stacks_share_the_jars_and_the_environment_sets_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = fetch_jars(cache_folder(os.environ), lambda _: None)
    assert {jar.parent for jar in present.glob(f"kafka_2.13-{KAFKA_VERSION}.jar")} == {present}
    (tmp_path / present.name).symlink_to(present)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("SLUICE_STACK_CACHE", str(tmp_path))
    assert fetch_jars(cache_folder(os.environ), pytest.fail) == tmp_path / present.name
    with pytest.raises(StackError, match="Maven"):
        fetch_jars(tmp_path / "elsewhere", lambda _: None)


# If the tests run as root, the stack runs as the user nobody, with the right to read all files. It needs this
# right if only root may read the clone and this interpreter. Without the secure bit, access(2) would ignore
# the right.
AS_NOBODY = (
    *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--securebits=+no_setuid_fixup"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


def test_a_stack_runs_as_an_ordinary_user() -> None:
    is_root = os.geteuid() == 0
    user = "nobody" if is_root else pwd.getpwuid(os.geteuid()).pw_name
    home = Path(tempfile.mkdtemp(prefix="sluice-test-user-"))
    shutil.chown(home, user)
    try:
        done = subprocess.run(
            [
                *(AS_NOBODY if is_root else ()),
                sys.executable,
                "-c",
                START_ONE_UP,
                str(home / "stack"),
                "postgres",
                "redis",
            ],
            env={"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)},
            cwd=home,
            capture_output=True,
            text=True,
            timeout=patient(120),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        started = json.loads(done.stdout)
        states = {name: state for name, state, _, _ in started}
        assert states == {"kafka": "stopped", "postgres": "running", "redis": "running"}
        owners = {name: os.stat(f"/proc/{pid}").st_uid for name, _, pid, _ in started if pid is not None}
        assert set(owners.values()) == {pwd.getpwnam(user).pw_uid}
    finally:
        Stack(home / "stack").down(wipe=True)
        shutil.rmtree(home)


def start_elsewhere(root: Path, *names: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START_ONE_UP, str(root), *names],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
