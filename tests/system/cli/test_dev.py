"""`sluice dev` starts all processes, restarts them when a file changes, and ends them on a signal."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import psutil
import psycopg2
import pytest
from sqlalchemy.engine import make_url

from sluice.cli.dev_processes import NAMES
from sluice.runtime.service_urls import StackUrls
from sluice.stack import Stack
from sluice.stack.ports import choose_ports
from sluice.testing.servers.processes import Child, start_new
from tests.waiting import wait_until

HANDLERS = """
from collections.abc import Iterator

from sqlalchemy import Column, MetaData, Text

from notes import NOTE
from sluice import Effect, Entity, Event, JsonObject, Topic, Upsert, entity_table, handles

columns = (Column("order_id", Text, primary_key=True), Column("note", Text))
orders = entity_table("dev_orders", MetaData(), *columns)
topics = (Topic("{topic}", entity=Entity("order", shards=1)),)


@handles("order.placed")
def place(event: Event[JsonObject]) -> Iterator[Effect]:
    yield Upsert(orders, event.key, {{"note": NOTE}}, version=None)
"""
STARTED = re.compile(r"^dev +\| (\S+) starts, pid (\d+)$", re.MULTILINE)


class DevRun:
    """A running `sluice dev`, and the project folder in which it runs."""

    def __init__(self, folder: Path, environ: Mapping[str, str], *words: str) -> None:
        self.folder, self.environ = folder, environ
        self.topic = f"dev-{os.getpid()}"
        (folder / "handlers.py").write_text(HANDLERS.format(topic=self.topic))
        self.set_note("'first'")
        self._log = folder / "dev.log"
        with self._log.open("wb") as output, open(os.devnull, "rb") as nothing:
            files = (nothing.fileno(), output.fileno(), output.fileno())
            self.process: Child = start_new(
                "sluice.cli.main", ["dev", *words], environ=environ, folder=folder, files=files
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def set_note(self, code: str) -> None:
        (self.folder / "notes.py").write_text(f"NOTE = {code}\n")

    def wait_for(self, text: str, times: int = 1) -> None:
        def is_there() -> bool:
            assert self.process.poll() is None, self.output
            return self.output.count(text) >= times

        wait_until(is_there, timeout_seconds=120, what=f"{text!r} {times} times in:\n{self.output}")

    def pids(self) -> dict[str, int]:
        """Returns the newest process id of each name."""
        return {name: int(pid) for name, pid in STARTED.findall(self.output)}

    def send(self, key: str, urls: StackUrls) -> None:
        words = ("send", self.topic, "--key", key, "--type", "order.placed", "--no-check")
        environ = {**self.environ, **urls.environ()}
        command = [sys.executable, "-m", "sluice.cli.main", *words]
        subprocess.run(command, cwd=self.folder, env=environ, check=True, capture_output=True)

    def end(self, number: signal.Signals) -> int:
        """Sends a signal and waits until `sluice dev` and its processes have ended. Returns the exit code."""
        processes = psutil.Process(self.process.pid).children(recursive=True)
        assert {one.pid for one in processes} >= set(self.pids().values())
        self.process.send_signal(number)
        wait_until(lambda: self.process.poll() is not None, timeout_seconds=60, what="sluice dev ends")
        assert [one for one in processes if one.is_running()] == []
        return self.process.wait()


@contextmanager
def running_dev(folder: Path, environ: Mapping[str, str], *words: str) -> Iterator[DevRun]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    dev = DevRun(folder, {**inherited, "SLUICE_HANDLERS": "handlers", **environ}, *words)
    try:
        yield dev
    finally:
        dev.process.terminate()
        dev.process.wait()
        print(dev.output)  # pytest shows this output if the test fails.


def notes(database_url: str) -> dict[str, str]:
    url = make_url(database_url)
    connection = psycopg2.connect(host=url.host, port=url.port, user=url.username, dbname=url.database)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT order_id, note FROM public.dev_orders")
            return dict(cursor.fetchall())
    finally:
        connection.close()


def wait_for_note(urls: StackUrls, key: str, note: str) -> None:
    wait_until(
        lambda: notes(urls.database_url).get(key) == note, timeout_seconds=60, what=f"{key} has {note}"
    )


def test_dev_starts_processes_applies_an_event_and_ends_the_processes(
    kafka: Stack, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    urls = StackUrls(database_url, redis_url, kafka.kafka_bootstrap_servers())
    left_out = [name for name in NAMES if name not in ("bridge", "worker")]
    words = [word for name in left_out for word in ("--without", name)]
    with running_dev(tmp_path, urls.environ(), *words) as dev:
        dev.wait_for("watching 2 files")
        dev.wait_for("all processes are ready")
        dev.send("o-1", urls)
        wait_for_note(urls, "o-1", "first")
        second = subprocess.run(
            [sys.executable, "-m", "sluice.cli.main", "dev"],
            cwd=tmp_path,
            env=dev.environ,
            capture_output=True,
            text=True,
        )
        assert second.returncode == 2
        assert f"as process {dev.process.pid}" in second.stderr
        assert set(dev.pids()) == {"bridge", "worker"}
        assert dev.end(signal.SIGINT) == 0
        assert "\x1b" not in dev.output
        assert re.search(r"^bridge +\| \d\d:\d\d:\d\d info +bridge started", dev.output, re.MULTILINE)
        assert all(re.match(r"[a-z-]+ +\|", line) for line in dev.output.splitlines())
    assert {one.state for one in kafka.status() if one.name == "kafka"} == {"running"}


@pytest.mark.matrix
def test_dev_with_its_own_servers_restarts_changed_and_killed_processes(tmp_path: Path) -> None:
    stack = Stack(tmp_path / ".sluice/stack")
    port = choose_ports(("flower",), {}, set())["flower"]
    with running_dev(tmp_path, {}, f"--flower-port={port}") as dev:
        dev.wait_for("watching 2 files")
        urls = stack.urls()
        dev.send("o-1", urls)
        wait_for_note(urls, "o-1", "first")
        dev.wait_for(f"Flower: http://127.0.0.1:{port}")
        wait_until(lambda: answers(port), timeout_seconds=60, what="Flower answers")

        first = dev.pids()
        assert set(first) == set(NAMES)
        # If a process had not imported the handlers yet, it would import the broken handlers and fail.
        dev.wait_for("all processes are ready")
        dev.set_note("'first' +")
        dev.wait_for("SyntaxError")
        dev.wait_for("running processes continue")
        dev.send("o-2", urls)
        wait_for_note(urls, "o-2", "first")
        assert dev.pids() == first
        assert dev.output.count("SyntaxError") == 1

        dev.set_note("'second'")
        wait_until(
            lambda: {name for name in NAMES if first[name] == dev.pids()[name]} == {"flower"},
            timeout_seconds=60,
            what="all processes except Flower have started again",
        )
        dev.wait_for("all processes are ready", times=2)
        assert " ended with " not in dev.output
        second = dev.pids()
        dev.send("o-3", urls)
        wait_for_note(urls, "o-3", "second")

        os.kill(second["bridge"], signal.SIGKILL)
        dev.wait_for("bridge ended with signal SIGKILL")
        dev.send("o-4", urls)
        wait_for_note(urls, "o-4", "second")
        assert dev.end(signal.SIGTERM) == 0
    assert {one.state for one in stack.status()} == {"stopped"}


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/") as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize(
    ("handlers", "said"),
    [("", "SLUICE_HANDLERS is empty"), ("nowhere", "module nowhere cannot be imported")],
)
def test_handlers_that_cannot_be_imported_start_nothing(tmp_path: Path, handlers: str, said: str) -> None:
    with running_dev(tmp_path, {"SLUICE_HANDLERS": handlers}) as dev:
        wait_until(lambda: dev.process.poll() is not None, timeout_seconds=60, what="sluice dev ends")
        assert dev.process.wait() == 2
        assert said in dev.output
        assert dev.pids() == {}
    assert not (tmp_path / ".sluice/stack").exists()
