"""Changing commands are refused on a copied database and on the database of another installation."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from typer.testing import CliRunner

from sluice.admin import init
from sluice.admin.doctor import installation_reading, kafka_reading
from sluice.cli.main import app
from sluice.db.connection import Session
from sluice.kafka_io import log_reader
from sluice.kafka_io.config import build_kafka_python_admin
from sluice.runtime.installation import Installation
from tests.db.admin.leaving import insert_call, insert_event, rows
from tests.harness.stacks import install

Run = Callable[..., str]
IMPATIENT_MS = 200
WHY = ("--reason", "test")
COPY = "UPDATE sluice.installation SET database_oid = database_oid + 1"
WRITING = (
    ("outbox", "retry", "--all", *WHY),
    ("outbox", "drop", "--all", *WHY, "--yes"),
    ("effects", "retry", "k", *WHY, "--yes"),
    ("effects", "settle", "k", "--as", "failed", *WHY, "--yes"),
    ("effects", "reconcile", "k", *WHY),
    ("effects", "pause", *WHY),
    ("effects", "resume", *WHY),
    ("dlq", "redrive", "--all", *WHY, "--yes"),
    ("dlq", "drop", "1", *WHY, "--yes"),
    ("dlq", "resolve", "1", *WHY),
    ("pause", "--topic", "orders", *WHY),
    ("resume", "--topic", "orders", *WHY),
    ("accept", "orders", *WHY, "--yes"),
    ("reshard", "order", "4", *WHY, "--yes"),
    ("queue", "resume", "order.0", *WHY),
    ("rebuild", "start", "revenue", *WHY),
    ("redis", "clean", "sluice-1a2b3c4d", *WHY, "--yes"),
)
READING = (
    ("outbox", "ls", "--json"),
    ("effects", "ls", "--json"),
    ("dlq", "ls", "--json"),
    ("queue", "ls", "--json"),
    ("audit", "ls", "--json"),
    ("workers", "--json"),
    ("rebuild", "status", "--json"),
    ("redis", "ls", "--json"),
)


@pytest.fixture
def installation(database_url: str) -> Installation:
    return install(database_url)


@pytest.fixture
def environ(database_url: str, redis_url: str, installation: Installation) -> dict[str, str]:
    return {
        "SLUICE_NAME": installation.name,
        "SLUICE_DATABASE_URL": database_url,
        "SLUICE_REDIS_URL": redis_url,
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "SLUICE_HANDLERS": "examples.shop.handlers",
        "COLUMNS": "200",
    }


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the timeouts for Kafka, because Kafka does not run in these tests."""
    for module in (installation_reading, kafka_reading, log_reader):
        monkeypatch.setattr(module, "BOOTSTRAP_TIMEOUT_MS", IMPATIENT_MS)
    build = partial(build_kafka_python_admin, bootstrap_timeout_ms=IMPATIENT_MS)
    monkeypatch.setattr(init, "build_kafka_python_admin", build)


@pytest.fixture
def run(environ: dict[str, str]) -> Run:
    """Returns a function that runs a command and returns its stdout, or its stderr if it fails."""

    def run(*words: str, exit_code: int = 0, **more: str) -> str:
        result = CliRunner().invoke(app, words, env=environ | more)
        assert result.exit_code == exit_code, result.output
        return result.stderr if exit_code else result.stdout

    return run


@pytest.mark.parametrize("words", WRITING, ids=" ".join)
def test_a_command_that_changes_something_is_refused_on_a_copy(
    session: Session, run: Run, words: tuple[str, ...]
) -> None:
    session.command(COPY)
    refused = run(*words, exit_code=2)
    assert "run `sluice init --new-installation` here" in refused
    assert "run `sluice init --moved` here" in refused
    assert len(refused.splitlines()) == 1


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_reading_command_works_on_a_copy_and_reports_the_copy(
    session: Session, environ: dict[str, str], words: tuple[str, ...]
) -> None:
    session.command(COPY)
    result = CliRunner().invoke(app, words, env=environ)
    assert result.exit_code == 0, result.output
    json.loads(result.stdout)
    assert "this database is a copy" in result.stderr


def test_another_name_and_a_missing_installation_are_refused(session: Session, run: Run) -> None:
    words = ("effects", "pause", *WHY)
    assert "set SLUICE_NAME=sluice" in run(*words, exit_code=2, SLUICE_NAME="staging")
    session.command("DELETE FROM sluice.installation")
    assert "run `sluice init`" in run(*words, exit_code=2)


def test_commands_open_sessions_only_where_the_installation_is_checked() -> None:
    """`init` checks the installation after the migrations. `status` and `doctor` report a refusal."""
    folder = Path(__file__).parents[3] / "sluice"
    opening = {
        str(file.relative_to(folder))
        for room in ("admin", "cli")
        for file in (folder / room).rglob("*.py")
        if "Session(" in file.read_text().replace("class Session(", "")
    }
    assert opening == {
        "admin/connection.py",
        "admin/init.py",
        "admin/status_reading.py",
        "admin/doctor/facts_reading.py",
    }


def test_status_and_doctor_report_the_copy_and_the_installation(
    session: Session, run: Run, environ: dict[str, str], installation: Installation
) -> None:
    fine = json.loads(CliRunner().invoke(app, ["status", "--json"], env=environ).stdout)
    assert (fine["installation"], fine["refusal"]) == (installation.group, None)
    session.command(COPY)
    shown = CliRunner().invoke(app, ["status"], env=environ)
    assert shown.exit_code == 1
    assert f"installation and consumer group: {installation.group}\n" in shown.stdout
    assert "this database is a copy" in shown.stderr
    found = json.loads(CliRunner().invoke(app, ["status", "--json"], env=environ).stdout)
    assert "this database is a copy" in found["refusal"]
    findings = json.loads(CliRunner().invoke(app, ["doctor", "--json"], env=environ).stdout)
    assert findings["installation"] == installation.group
    assert any("this database is a copy" in one["problem"] for one in findings["findings"])


def test_prefixes_in_redis_are_listed_and_deleted(
    session: Session, run: Run, redis_url: str, installation: Installation
) -> None:
    gone = Installation("gone", installation.id)
    with Redis.from_url(redis_url) as client:
        for key in (
            f"{gone.redis_prefix}a",
            f"{gone.redis_prefix}b",
            f"{installation.redis_prefix}c",
            "unacked",
        ):
            client.set(key, "x")
        listed = [line.split() for line in run("redis", "ls").splitlines()]
        assert [line[0] for line in listed] == ["prefix", gone.group, installation.group, "without"]
        assert listed[2][-2:] == ["this", "installation"]
        found = json.loads(run("redis", "ls", "--json"))
        assert [(one["group"], one["keys"], one["is_own"]) for one in found] == [
            (gone.group, 2, False),
            (installation.group, 1, True),
            (None, 1, False),
        ]
        clean = ("redis", "clean", gone.redis_prefix, *WHY)
        assert "2 keys" in run(*clean, "--dry-run")
        assert "will be deleted" in run(*clean, exit_code=2)
        assert run(*clean, "--yes") == f"{gone.group}: 2 keys deleted, 0 left\n"
        assert sorted(client.keys()) == [f"{installation.redis_prefix}c".encode(), b"unacked"]
    assert rows(session, "SELECT subject, verb FROM sluice.audit") == [(gone.group, "redis clean")]
    session.command(
        "INSERT INTO sluice.processes (process, kind, node, process_id, format, key_number, entities, topics,"
        " effects) VALUES (gen_random_uuid(), 'beat', 'b', 1, 1, 1, '{}', '{}', '{}')"
    )
    refused = run("redis", "clean", installation.group, *WHY, "--yes", exit_code=2)
    assert "its processes are running: beat b" in refused


def test_init_requires_confirmation_to_change_the_installation(
    session: Session, run: Run, environ: dict[str, str]
) -> None:
    session.command(COPY)
    insert_event(session, 1)
    insert_call(session, "k")
    assert "run `sluice init --moved` here" in run("init", exit_code=2)
    assert "pass only one of --new-installation, --moved" in run(
        "init", "--moved", "--new-installation", "--yes", exit_code=2
    )
    assert "Cannot ask for confirmation without a terminal" in run("init", "--new-installation", exit_code=2)
    # `init` prints the change before it connects to Kafka, which does not run in this test.
    done = CliRunner().invoke(app, ["init", "--new-installation", "--yes"], env=environ)
    assert "outgoing events held: 1;" in done.stdout
    assert "calls held: 1;" in done.stdout
    assert "all calls are paused" in done.stdout
    assert rows(session, "SELECT verb, reason FROM sluice.audit") == [("init new-installation", "not given")]
