"""`sluice worker`, `relay` and the other worker commands start Celery with the right pool and queues."""

import os
from collections.abc import Sequence
from typing import Any

import pytest
from typer.testing import CliRunner

from sluice.cli import worker as module
from sluice.cli.main import app
from tests.unit.runtime.test_settings import ENVIRON

WORDS = [
    (("worker",), "-P solo -n worker@%h"),
    (("worker", "--queues", "order.0,order.1"), "-P solo -n worker@%h -Q order.0,order.1"),
    (("relay",), "-P solo -n relay@%h -Q relay,maintenance"),
    (("rebuild-worker",), "-P solo -n rebuild@%h -Q rebuild"),
    (("effects-worker",), "-P prefork -n effects@%h -Q effects"),
    (("effects-worker", "--concurrency", "8"), "-P prefork -n effects@%h -Q effects -c 8"),
    (("worker", "--name", "w1"), "-P solo -n w1@%h"),
    (("worker", "--", "--without-heartbeat", "-E"), "-P solo -n worker@%h --without-heartbeat -E"),
    (("relay", "--name", "r2", "--", "-E"), "-P solo -n r2@%h -Q relay,maintenance -E"),
]
REFUSED = [
    (("relay", "--queues", "order.0"), "--queues"),
    (("worker", "--concurrency", "2"), "--concurrency"),
    (("worker", "--", "--detach"), "--detach: a worker in the background cannot be supervised"),
    (("worker", "--log-level", "loud"), "loud"),
]


class Started:
    """A supervisor that starts no worker."""

    made: dict[str, Any]

    def __init__(self, command: Sequence[str], **given: Any) -> None:
        Started.made = {"command": list(command), **given}

    def run(self) -> int:
        return 7


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "Supervisor", Started)
    monkeypatch.setattr(module, "configure_logs", lambda **_: None)


@pytest.mark.parametrize(("words", "expected"), WORDS, ids=[" ".join(w) for w, _ in WORDS])
def test_a_worker_command_starts_celery_with_the_expected_arguments(
    words: Sequence[str], expected: str
) -> None:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 7, result.output
    assert Started.made["command"][1:] == [
        *("-m", "celery", "-A", "sluice.runtime.app", "--quiet", "worker"),
        *expected.split(),
    ]


@pytest.mark.parametrize(("words", "text"), REFUSED, ids=[" ".join(w) for w, _ in REFUSED])
def test_an_invalid_option_of_a_worker_command_is_refused(words: Sequence[str], text: str) -> None:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 2
    assert text in " ".join(result.output.replace("│", " ").split())


def test_the_worker_receives_the_log_level_and_the_supervisor_receives_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLUICE_HANDLER_SECONDS", "3")
    CliRunner().invoke(app, ["worker", "--log-level", "warning"])
    assert Started.made["environ"]["SLUICE_LOG_LEVEL"] == "warning"
    assert Started.made["handler_seconds"] == 3


def test_no_worker_starts_with_invalid_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_HANDLER_SECONDS", "0")
    result = CliRunner().invoke(app, ["worker"])
    assert (result.exit_code, "SLUICE_HANDLER_SECONDS" in result.output) == (2, True)
