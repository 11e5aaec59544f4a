"""`sluice dlq` lists, redrives and drops dead letters of one generation separately."""

import json
import sys

import pytest
from typer.testing import CliRunner

from sluice.cli.main import app
from tests.db.tasks import failing_projections
from tests.db.tasks.applying import thing_set
from tests.db.tasks.failing import WHY, Run, refused
from tests.db.tasks.failing_projections import BAD, Bench, application, as_it_is, raising, stream
from tests.harness.stacks import install

bench = failing_projections.bench


@pytest.fixture
def run(bench: Bench, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that runs `sluice …` with the corrected code and returns the output."""
    monkeypatch.setitem(sys.modules, "mended_projections", application(as_it_is))
    monkeypatch.setenv("COLUMNS", "250")
    install(database_url)
    environ = {
        "SLUICE_DATABASE_URL": database_url,
        "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "SLUICE_HANDLERS": "mended_projections",
    }

    def run(*words: str, exit_code: int = 0) -> str:
        result = CliRunner().invoke(app, words, env=environ)
        assert result.exit_code == exit_code, result.output
        return str(result.output)

    return run


def test_letters_of_a_projection_are_listed_redriven_and_dropped(
    bench: Bench, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.live(*stream(), refused(5, "c"), thing_set(6, "d", BAD), thing_set(7, "d", 8))
    listed = run("dlq", "ls")
    assert "totals, generation 1" in listed
    assert "CheckViolation" in listed, "letters of entities are listed too"
    document = json.loads(run("dlq", "ls", "--projection", "totals", "--json"))
    assert document["letters"] == []
    assert [(one["offset"], one["state"]) for one in document["projection_letters"]] == [
        (6, "dead"),
        (2, "dead"),
    ]
    newest, oldest = (one["id"] for one in document["projection_letters"])
    shown = run("dlq", "show", str(oldest))
    assert "error class: ValueError\n" in shown
    assert "Traceback of the handler (most recent call last):\n" in shown
    whole = json.loads(run("dlq", "show", str(oldest), "--json"))
    assert (whole["projection"], whole["generation"], whole["key"]) == ("totals", 1, whole["entity_key"])
    assert whole["value"]["data"]
    assert whole["holds"]
    assert "--generation is valid only with --projection" in run(
        "dlq", "ls", "--generation", "1", exit_code=2
    )
    assert run("dlq", "ls", "--projection", "labels") == "no dead letters\n"

    planned = run("dlq", "redrive", "--all", "--projection", "totals", *WHY, "--dry-run")
    assert planned == (
        "thing/a in generation 1 of totals: 1 failed, 1 waiting\n"
        "thing/d in generation 1 of totals: 1 failed, 1 waiting\n"
    )
    dropped = run("dlq", "drop", str(newest), *WHY, "--yes")
    assert f"{newest} is dropped for generation 1 of totals: things:0:6, 1 behind it\n" in dropped
    assert "thing/d in generation 1 of totals: 1 applied; unparked\n" in dropped
    assert bench.rows()["d"] == (8, 1)
    monkeypatch.setitem(sys.modules, "mended_projections", application(raising))
    blocked = run("dlq", "redrive", str(oldest), *WHY, "--yes", exit_code=1)
    assert "blocked by things:0:2 ValueError: thirteen" in blocked
    monkeypatch.setitem(sys.modules, "mended_projections", application(as_it_is))
    assert "2 applied; unparked" in run("dlq", "redrive", str(oldest), *WHY, "--yes")
    assert bench.rows()["a"] == (3, 3)
    assert bench.look("SELECT verb, subject FROM sluice.audit ORDER BY id") == [
        ("dlq drop", str(newest)),
        ("dlq redrive", "totals thing/a"),
        ("dlq redrive", "totals thing/a"),
    ]
    [(dead,)] = bench.look("SELECT id FROM sluice.dead_letters WHERE state = 'dead'")
    both = run("dlq", "redrive", str(oldest), str(dead), *WHY, "--yes", exit_code=2)
    assert "redrive them separately" in both
