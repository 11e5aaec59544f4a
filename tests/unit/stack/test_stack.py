"""Parts of the stack that need no server: configuration, ports, folders, identity of processes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from urllib.parse import quote_plus

import pytest

from sluice.runtime.service_urls import StackUrls
from sluice.stack import Stack, StackError
from sluice.stack.atomic_folders import made_whole
from sluice.stack.external_urls import external_urls
from sluice.stack.kafka_broker import new_cluster_id, server_properties
from sluice.stack.kafka_jars import cache_folder
from sluice.stack.ports import LOOPBACK, choose_ports
from sluice.stack.postgres_files import can_reach
from sluice.stack.processes import ProcessId, is_alive, send_signal, start_time
from sluice.stack.secure_files import make_secure_files, read_password, secure_folder
from sluice.stack.service import log_tail
from sluice.stack.stack_state import ServiceRecord, StackState
from tests.waiting import wait_until

URLS = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://me@db/sluice",
    "SLUICE_REDIS_URL": "redis://cache/0",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "log:9092",
}


def make_stopped_stack(root: Path) -> None:
    """Writes the state of a stack whose services have ended."""
    root.mkdir(parents=True, exist_ok=True)
    state = StackState(root)
    for name, ports in {
        "kafka": {"broker": 1, "controller": 4},
        "postgres": {"postgres": 2},
        "redis": {"redis": 3},
    }.items():
        state.write(name, ServiceRecord(ports=ports))


def urls_of(environ: Mapping[str, str]) -> StackUrls:
    database_url, redis_url, servers = environ.values()
    return StackUrls(database_url, redis_url, servers)


def test_an_environment_that_names_all_services_is_used() -> None:
    assert external_urls(URLS) == urls_of(URLS)
    assert urls_of(URLS).environ() == URLS


@pytest.mark.parametrize("environ", [{}, dict.fromkeys(URLS, "")])
def test_an_environment_that_names_no_service_needs_a_local_stack(environ: dict[str, str]) -> None:
    assert external_urls(environ) is None


@pytest.mark.parametrize("missing", URLS)
def test_an_environment_that_lacks_one_service_is_refused_with_the_name_of_the_service(missing: str) -> None:
    with pytest.raises(StackError, match=f"not {missing}: .* to use the local stack: unset SLUICE_DATABASE_"):
        external_urls({name: url for name, url in URLS.items() if name != missing})


@pytest.mark.parametrize("left", [(), *combinations(URLS, 1), *combinations(URLS, 2), tuple(URLS)])
def test_a_terminal_that_keeps_the_addresses_of_a_stack_needs_this_stack(left: tuple[str, ...]) -> None:
    environ = {name: URLS[name] for name in left}
    assert external_urls(environ, URLS) is None


@pytest.mark.parametrize("changed", URLS)
def test_an_environment_with_one_other_address_is_used(changed: str) -> None:
    environ = URLS | {changed: f"{URLS[changed]}9"}
    assert external_urls(environ, URLS) == urls_of(environ)


def test_a_stack_lists_the_addresses_of_its_last_run(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    assert stack.environ() == {}
    make_stopped_stack(tmp_path)
    assert stack.environ() == {
        "SLUICE_DATABASE_URL": "postgresql+psycopg2://app@127.0.0.1:2/sluice",
        "SLUICE_REDIS_URL": "redis://127.0.0.1:3/0",
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    }


def test_a_stack_with_data_and_without_logins_is_not_made_secure(tmp_path: Path) -> None:
    make_stopped_stack(tmp_path)
    (tmp_path / "postgres/data").mkdir(parents=True)
    with pytest.raises(StackError, match="was started without --secure"):
        Stack(tmp_path, secure=True).up()
    assert not Stack(tmp_path).is_secure


def test_a_name_that_would_give_another_right_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="SLUICE_NAME: 'shop ~\\*'"):
        Stack(tmp_path, secure=True, name="shop ~*")


def test_a_secure_stack_stays_secure(tmp_path: Path) -> None:
    make_stopped_stack(tmp_path)
    make_secure_files(secure_folder(tmp_path))
    make_secure_files(secure_folder(tmp_path))
    environ = Stack(tmp_path).environ()
    password = read_password(secure_folder(tmp_path), "postgres")
    authority = quote_plus(str(tmp_path / "tls/ca.pem"))
    assert environ["SLUICE_DATABASE_URL"] == (
        f"postgresql+psycopg2://app:{password}@127.0.0.1:2/sluice?sslmode=verify-full&sslrootcert={authority}"
    )
    password = read_password(secure_folder(tmp_path), "redis")
    assert environ["SLUICE_REDIS_URL"] == (
        f"rediss://sluice:{password}@127.0.0.1:3/0?ssl_ca_certs={authority}"
    )
    assert environ["SLUICE_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
    assert secure_folder(tmp_path).stat().st_mode & 0o077 == 0


def test_the_broker_listens_only_on_the_loopback_address_and_never_creates_topics_itself() -> None:
    text = server_properties(broker_port=20001, controller_port=20002, data=Path("/data"))
    settings = dict(line.split("=", 1) for line in text.splitlines())
    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002"
    assert settings["controller.quorum.bootstrap.servers"] == "127.0.0.1:20002"
    assert settings["log.dirs"] == "/data"
    assert settings["auto.create.topics.enable"] == "false"
    assert settings["offsets.topic.replication.factor"] == "1"


def test_a_cluster_id_never_looks_like_a_command_line_option() -> None:
    ids = {new_cluster_id() for _ in range(500)}
    assert len(ids) == 500
    assert all(len(one) == 22 and not one.startswith("-") for one in ids)


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"SLUICE_STACK_CACHE": "/srv/jars"}, "/srv/jars"),
        ({"XDG_CACHE_HOME": "/home/me/.c"}, "/home/me/.c/sluice"),
        ({}, str(Path.home() / ".cache/sluice")),
    ],
)
def test_the_environment_chooses_the_folder_of_the_cache(environ: dict[str, str], folder: str) -> None:
    assert cache_folder(environ) == Path(folder)


def test_a_port_is_kept_unless_another_process_uses_it() -> None:
    first = choose_ports(("a", "b"), {}, set())
    assert choose_ports(("a", "b"), first, set()) == first
    with socket.socket() as intruder:
        intruder.bind((LOOPBACK, first["a"]))
        intruder.listen()
        second = choose_ports(("a", "b"), first, set())
    assert second["a"] != first["a"]
    assert second["b"] == first["b"]


def test_a_port_of_another_service_is_not_chosen() -> None:
    wished = choose_ports(("a",), {}, set())
    assert choose_ports(("a",), wished, {wished["a"]}) != wished


def test_a_folder_exists_completely_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "data"
    with contextlib.suppress(ZeroDivisionError), made_whole(target) as part:
        (part / "half").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with made_whole(target) as part:
        (part / "whole").touch()
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_if_two_processes_write_a_folder_the_first_complete_folder_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "data"
    with made_whole(target) as late:
        (late / "late").touch()
        with made_whole(target) as early:
            (early / "early").touch()
    assert [path.name for path in target.iterdir()] == ["early"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_process_is_identified_by_its_pid_and_its_start_time() -> None:
    me = os.getpid()
    started = start_time(me)
    assert started is not None
    assert is_alive(ProcessId(me, started))
    earlier = ProcessId(me, "an earlier process with this pid")
    assert not is_alive(earlier)
    send_signal(earlier, signal.SIGKILL)  # A signal to this pid would end the test session.


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    started = start_time(child.pid)
    assert started is not None
    child.stdin.close()
    wait_until(lambda: start_time(child.pid) is None, timeout_seconds=10, what="the child has ended")
    child.wait()


def test_the_state_is_read_back_unchanged_and_lists_the_ports_of_other_services(tmp_path: Path) -> None:
    state = StackState(tmp_path)
    record = ServiceRecord(tmp_path / "data", {"redis": 20001}, ProcessId(1, "then"))
    with state.locked(lambda _: None):
        state.write("redis", record)
        state.write("kafka", ServiceRecord())
    assert StackState(tmp_path).read("redis") == record
    assert state.read("postgres") == ServiceRecord()
    assert state.ports_of_others("kafka") == {20001}
    assert state.ports_of_others("redis") == set()


def test_the_last_lines_of_a_log_are_quoted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert "no log" in log_tail(log)
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    assert log_tail(log).splitlines()[-1] == "line 99"
    assert len(log_tail(log).splitlines()) == 15


def test_a_folder_inside_a_folder_without_access_cannot_be_reached(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "inside").mkdir(parents=True)
    closed.chmod(0o700)
    assert can_reach(None, closed / "inside")
    if os.geteuid() == 0:
        assert not can_reach("nobody", closed / "inside" / "not there yet")
    assert can_reach("nobody", Path("/usr"))
