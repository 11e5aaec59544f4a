"""`sluice beat` and `sluice flower` start Celery after a check of their settings and ports."""

import importlib.util
import os
import socket
import sys
from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from sluice.cli import processes as module
from sluice.cli.main import app
from tests.unit.runtime.test_settings import ENVIRON

COMMANDS = [
    (("beat",), "beat"),
    (("flower",), "flower --address=127.0.0.1 --port=5555"),
    (
        ("flower", "--address", "0.0.0.0", "--port", "5556", "--", "--url_prefix=f"),
        "flower --address=0.0.0.0 --port=5556 --url_prefix=f",
    ),
]


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("words", "expected"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_the_process_is_replaced_by_celery(
    words: Sequence[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[str] = []
    monkeypatch.setattr(module, "_refuse_used_port", lambda *_: None)
    monkeypatch.setattr(os, "execv", lambda _, words: became.extend(words))
    assert CliRunner().invoke(app, list(words)).exit_code == 0
    assert became == [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "sluice.runtime.app",
        "--quiet",
        *expected.split(),
    ]


@pytest.mark.parametrize("command", ["bridge", "beat", "flower", "worker", "relay"])
def test_a_missing_setting_ends_the_command_with_advice(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLUICE_REDIS_URL")
    result = CliRunner().invoke(app, [command])
    assert (result.exit_code, result.output) == (
        2,
        "sluice: SLUICE_REDIS_URL: required, but not set. Set what is missing, or run: eval"
        ' "$(sluice stack up)" (in a project of `sluice new DIR`: make shell)\n',
    )


def test_flower_refuses_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = CliRunner().invoke(app, ["flower", "--port", str(port)])
    assert (result.exit_code, result.output) == (
        2,
        f"sluice: Flower cannot listen on 127.0.0.1:{port}: Address already in use; pass another --port\n",
    )


def test_the_error_for_a_missing_flower_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    result = CliRunner().invoke(app, ["flower"])
    assert result.exit_code == 2
    assert "pip install 'sluice-kafka[flower]'" in result.output
