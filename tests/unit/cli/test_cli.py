"""Commands without services: the output, the stream of the output (stdout or stderr), and the exit code."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import kombu.exceptions as kombu
import psycopg2
import pytest
from kafka.errors import KafkaTimeoutError
from redis import AuthenticationError, RedisError
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from sluice import __version__
from sluice.admin.init import Initialised
from sluice.admin.service_errors import ServiceFailed, reaching_services
from sluice.cli.init import describe
from sluice.cli.main import COMMANDS, app
from sluice.runtime.fault_points import faults

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
URLS = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://me:secret@127.0.0.1:1/none",
    "SLUICE_REDIS_URL": "redis://:secret@127.0.0.1:1/0",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "SLUICE_HANDLERS": "examples.shop.handlers",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in URLS:
        monkeypatch.delenv(name, raising=False)


def test_the_version_option_prints_the_version_of_the_package() -> None:
    declared = tomllib.loads(PYPROJECT.read_text())
    assert declared["project"]["dynamic"] == ["version"]
    assert declared["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sluice.__version__"}
    assert CliRunner().invoke(app, ["--version"]).stdout == f"sluice {__version__}\n"


@pytest.mark.parametrize(
    "words", [[], *([name] for name in COMMANDS), ["stack", "up"], ["dlq", "ls"]], ids=" ".join
)
def test_every_command_has_help(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert f"Usage: sluice {' '.join(words)}" in result.stdout


def test_the_help_lists_every_command_with_a_summary() -> None:
    listed = CliRunner().invoke(app, ["--help"]).stdout
    for name in COMMANDS:
        assert re.search(rf"^\W*{name} +[A-Z]", listed, re.MULTILINE), name


@pytest.mark.parametrize("name", list(COMMANDS))
def test_no_command_runs_with_faults_that_are_not_allowed(name: str) -> None:
    result = CliRunner().invoke(app, [name], env={"SLUICE_FAULTS": "apply.begun:1:kill"})
    assert result.exit_code == 2
    assert "SLUICE_ALLOW_FAULTS=1" in result.stderr
    assert faults.armed == {}


def test_an_unknown_command_is_refused_with_the_nearest_name() -> None:
    result = CliRunner().invoke(app, ["statsu"])
    assert result.exit_code == 2
    assert "No such command 'statsu'" in result.stderr
    assert "status" in result.stderr


def test_a_command_does_not_import_libraries_that_only_other_commands_need() -> None:
    """Importing the libraries for Kafka, Celery and migrations would delay each command by a second."""
    looked = "import sys; from sluice.cli.main import app; app(sys.argv[1:], standalone_mode=False);"
    heavy = {"alembic", "celery", "confluent_kafka", "kafka"}
    program = f"{looked} print('loaded', *sorted({heavy} & sys.modules.keys()))"
    for words in (["--version"], ["audit", "ls", "--help"], ["stack", "--help"], ["dlq", "ls", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "loaded", words


@pytest.mark.parametrize("words", [["init"], ["send", "-"], ["status"], ["workers"], ["doctor"]])
def test_missing_settings_are_reported_in_one_line_with_advice(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "SLUICE_DATABASE_URL" in result.stderr
    assert 'eval "$(sluice stack up)"' in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"SLUICE_HANDLERS": "no.such.module"}, "no.such.module cannot be imported"),
        ({"SLUICE_REDIS_URL": "http://x"}, "SLUICE_REDIS_URL"),
        ({"SLUICE_KAFKA_BOOTSTRAP_SERVERS": "x"}, "'x' is not host:port"),
        ({"SLUICE_DATABASE_URL": "postgresql+psycopg2://me:secret@host:port/x"}, "SLUICE_DATABASE_URL"),
        ({"SLUICE_DATABSE_URL": "x"}, "unknown settings SLUICE_DATABSE_URL"),
    ],
)
def test_invalid_settings_are_reported_in_one_line(changed: dict[str, str], message: str) -> None:
    result = CliRunner().invoke(app, ["status"], env=URLS | changed)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "secret" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [[], ["--generate", "users"]])
def test_send_without_a_topic_is_refused_before_kafka_is_used(words: list[str]) -> None:
    result = CliRunner().invoke(app, ["send", *words], env=URLS)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Missing argument 'TOPIC | FILE'" in result.stderr or "No such option" in result.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            psycopg2.OperationalError("refused\n\tis it up?\n"),
            "Postgres (SLUICE_DATABASE_URL): refused; is it up?",
        ),
        (
            OperationalError("SELECT 1", {"p": "secret"}, Exception("away")),
            "Postgres (SLUICE_DATABASE_URL): away",
        ),
        (RedisError("gone."), "Redis (SLUICE_REDIS_URL): gone"),
        (KafkaTimeoutError("late"), "Kafka (SLUICE_KAFKA_BOOTSTRAP_SERVERS): KafkaTimeoutError: late"),
        (RedisError(), "Redis (SLUICE_REDIS_URL): RedisError"),
        (kombu.OperationalError("refused"), "Redis (SLUICE_REDIS_URL): refused"),
        (TimeoutError(), "Kafka (SLUICE_KAFKA_BOOTSTRAP_SERVERS): TimeoutError"),
    ],
)
def test_a_service_that_fails_is_named_in_one_line(error: Exception, message: str) -> None:
    with pytest.raises(ServiceFailed) as caught, reaching_services():
        raise error
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RedisError("gone."), "Redis (SLUICE_REDIS_URL): cannot use cache:6379/0: gone"),
        (
            AuthenticationError("invalid username-password pair"),
            "Redis (SLUICE_REDIS_URL): cannot use cache:6379/0: invalid username-password pair;"
            " correct the user or the password in SLUICE_REDIS_URL or SLUICE_REDIS_PASSWORD"
            " (SLUICE_REDIS_SENTINEL_PASSWORD for Sentinels)",
        ),
        (
            KafkaTimeoutError("late"),
            "Kafka (SLUICE_KAFKA_BOOTSTRAP_SERVERS): cannot use kafka:9092: KafkaTimeoutError: late",
        ),
    ],
)
def test_an_error_of_a_service_names_its_address_without_the_password(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", "redis://:secret@cache:6379/0")
    monkeypatch.setenv("SLUICE_KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
    with pytest.raises(ServiceFailed) as caught, reaching_services():
        raise error
    assert str(caught.value) == message


@pytest.mark.parametrize("words", [["init"], ["workers"], ["workers", "--json"]])
def test_a_command_that_cannot_reach_a_service_reports_the_service_in_one_line(words: list[str]) -> None:
    result = CliRunner().invoke(app, words, env=URLS)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("sluice: Postgres (SLUICE_DATABASE_URL): ")
    assert "secret" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_error_that_no_service_raised_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), reaching_services():
        _ = 1 // 0


def test_init_reports_what_it_created_and_which_number_of_shards_applies() -> None:
    made = Initialised("sluice-0a1b2c3d", ["orders"], [], {"order": 4, "user": 4})
    assert describe(made, {"order": 8, "user": 4}) == [
        "installation: sluice-0a1b2c3d",
        "tables made: orders",
        "topics made: none were missing",
        "entity types: order (4 queues), user (4 queues)",
        "order: the code declares 8 shards, Postgres has 4; the number in Postgres is used",
    ]


@pytest.mark.parametrize("has_events", [True, False])
def test_init_advises_a_rebuild_only_if_a_new_projection_lacks_events(
    has_events: bool,
) -> None:
    made = Initialised("sluice-0a1b2c3d", projections=["revenue"], has_events=has_events)
    [line] = [line for line in describe(made, {}) if line.startswith("projection made: revenue")]
    assert ("sluice rebuild start revenue" in line) is has_events
