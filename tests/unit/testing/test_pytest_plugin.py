"""The pytest plugin: the fixtures find the handlers, and say what to set where they do not."""

import os
import subprocess
import sys
from pathlib import Path

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

def test_nothing_heavy_is_loaded_before_a_fixture():
    assert not {"sqlalchemy", "msgspec", "psycopg2", "celery"} & set(sys.modules)

def test_an_event(sluice_world):
    sluice_world.send("accounts", key="a-1", type="balance.set", data={"cents": 5}, version=1)
    assert sluice_world.row("accounts", "a-1") == {"cents": 5}

def test_a_world_of_its_own(sluice_world):
    assert sluice_world.rows("accounts") == {}
"""


def run_pytest(folder: Path, **environment: str) -> str:
    (folder / "accounting.py").write_text(HANDLERS)
    (folder / "test_accounting.py").write_text(TEST)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLUICE_", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "sluice.pytest_plugin", "."],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_option_names_the_handlers(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nsluice_handlers = accounting, accounting\n")
    assert "3 passed" in run_pytest(tmp_path)


def test_the_environment_names_the_handlers(tmp_path: Path) -> None:
    assert "3 passed" in run_pytest(tmp_path, SLUICE_HANDLERS="accounting")


def test_without_handlers_the_error_names_what_to_set(tmp_path: Path) -> None:
    output = run_pytest(tmp_path)
    assert "set sluice_handlers in the pytest section of pyproject.toml" in output
    assert "1 passed, 2 errors" in output
