"""Commands without servers use the schema of the environment, and pass no option of Sluice to psql."""

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sluice.cli import stack
from sluice.cli.main import app


def test_the_grants_name_the_schema() -> None:
    default = CliRunner().invoke(app, ["grants", "--for", "worker"], env={}).output
    done = CliRunner().invoke(app, ["grants", "--for", "worker"], env={"SLUICE_SCHEMA": "billing"})
    assert done.exit_code == 0
    assert "GRANT USAGE ON SCHEMA billing TO sluice_worker;" in done.output
    assert done.output == default.replace("sluice.", "billing.").replace("SCHEMA sluice", "SCHEMA billing")


def test_a_wrong_schema_is_one_sentence() -> None:
    done = CliRunner().invoke(app, ["grants", "--for", "worker"], env={"SLUICE_SCHEMA": "public"})
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "sluice: SLUICE_SCHEMA: 'public' is taken: Sluice needs a schema for its own tables only"
    ]


def test_psql_gets_no_option_of_sluice(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *words: started.append(words))
    monkeypatch.setattr(stack, "find_psql", lambda: Path("psql"))
    url = "postgresql+psycopg2://me:secret@db/shop?sslmode=require&sluice_schema=billing"
    done = CliRunner().invoke(app, ["stack", "psql", "-c", "SELECT 1"], env={"SLUICE_DATABASE_URL": url})
    assert done.exit_code == 0, done.output
    [(program, words, environ)] = started
    assert program == Path("psql")
    assert words[1:] == ["--dbname=postgresql://me@db/shop?sslmode=require", "-c", "SELECT 1"]
    assert environ["PGPASSWORD"] == "secret"
