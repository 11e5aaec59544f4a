"""The pytest plugin: the fixtures find the handlers, or the error names the option to set."""

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from sluice.pytest_plugin import handler_modules

HANDLERS = """
from sqlalchemy import BigInteger, Column, MetaData, Text
from sluice import Entity, Topic, Upsert, entity_table, handles

topics = (Topic("accounts", entity=Entity("account")),)
accounts = entity_table(
    "accounts", MetaData(), Column("id", Text, primary_key=True), Column("cents", BigInteger)
)


@handles("balance.set")
def set_balance(event):
    yield Upsert(accounts, event.key, event.data)
"""
TEST = """
import sys

def test_no_large_library_is_imported_before_a_fixture():
    assert not {"sqlalchemy", "msgspec", "psycopg2", "celery"} & set(sys.modules)

def test_an_event(sluice_world):
    sluice_world.send("accounts", key="a-1", type="balance.set", data={"cents": 5}, version=1)
    assert sluice_world.row("accounts", "a-1") == {"cents": 5}

def test_each_test_has_its_own_world(sluice_world):
    assert sluice_world.rows("accounts") == {}
"""


def test_the_option_names_the_handlers(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nsluice_handlers = accounting\n")
    (tmp_path / "accounting.py").write_text(HANDLERS)
    (tmp_path / "test_accounting.py").write_text(TEST)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLUICE_", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "sluice.pytest_plugin", "."],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("option", "variable", "modules"),
    [
        ("a.b, c", "", ["a.b", "c"]),
        ("a b\nc", "d", ["a", "b", "c"]),
        ("", "d,e", ["d", "e"]),
    ],
)
def test_modules_are_read_from_the_option_or_else_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, option: str, variable: str, modules: list[str]
) -> None:
    monkeypatch.setenv("SLUICE_HANDLERS", variable)
    assert handler_modules(cast(pytest.Config, Config(option))) == modules


def test_without_handlers_the_error_names_the_option_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLUICE_HANDLERS", raising=False)
    with pytest.raises(pytest.UsageError, match="set sluice_handlers in the pytest section"):
        handler_modules(cast(pytest.Config, Config("")))


class Config:
    """A configuration with only this option."""

    def __init__(self, option: str) -> None:
        self.option = option

    def getini(self, name: str) -> str:
        assert name == "sluice_handlers"
        return self.option
