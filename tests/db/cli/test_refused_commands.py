"""If Postgres refuses the connection, every command prints one sentence and exits with 2."""

import sys
from types import ModuleType

import pytest
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from sluice.cli.main import app
from sluice.tasks.api import Entity, Topic

WHY = "--reason test --yes"
COMMANDS = [
    "init",
    "workers",
    "verify",
    "trace things:0:0",
    "outbox ls",
    "outbox show thing.0 1",
    f"outbox drop --all {WHY}",
    "effects ls",
    "effects show key",
    "effects pause --reason test",
    "dlq ls",
    "dlq show 1",
    "dlq export --all",
    f"dlq redrive --all {WHY}",
    f"dlq drop 1 {WHY}",
    "rebuild status",
    "rebuild plan things_view",
    "rebuild start things_view --reason test",
    "queue ls",
    f"queue resume thing.0 --accept-deaths 1 {WHY}",
    "redis ls",
    "audit ls",
    "pause --topic things --reason test",
    f"accept things {WHY}",
    f"reshard thing 8 {WHY}",
    f"skip things:0:0 {WHY}",
]
SECRET = "not-to-be-shown"


@pytest.fixture
def environ(database_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Returns the settings of a deployment whose database is missing. Neither Redis nor Kafka runs."""
    module = ModuleType("refused_things")
    module.topics = (Topic("things", entity=Entity("thing", 1), ignores=("thing.set",)),)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "refused_things", module)
    url = make_url(database_url).set(database="missing", password=SECRET)
    return {
        "SLUICE_DATABASE_URL": url.render_as_string(hide_password=False),
        "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "SLUICE_HANDLERS": "refused_things",
    }


def test_every_command_prints_one_sentence_and_exits_with_2(environ: dict[str, str]) -> None:
    url = make_url(environ["SLUICE_DATABASE_URL"])
    expected = (
        f"sluice: Postgres (SLUICE_DATABASE_URL): cannot connect to {url.host}:{url.port}"
        f' (database missing, user {url.username}): FATAL: database "missing" does not exist;'
        " correct the database in SLUICE_DATABASE_URL, or create it\n"
    )
    answers = {command: CliRunner().invoke(app, command.split(), env=environ) for command in COMMANDS}
    assert {
        command: result.output
        for command, result in answers.items()
        if (result.exit_code, result.output) != (2, expected)
    } == {}


def test_status_and_doctor_include_the_refusal_in_their_report(environ: dict[str, str]) -> None:
    for command in ("status", "doctor"):
        output = CliRunner().invoke(app, [command], env={**environ, "COLUMNS": "400"}).output
        assert 'database "missing" does not exist; correct the database' in output
        assert SECRET not in output
