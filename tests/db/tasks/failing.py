"""Dead letters of every kind, and a fixture that runs the commands of an operator."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from sluice.cli.main import app
from sluice.db.connection import BATCH_PLANS, Session
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Entity, Topic
from sluice.tasks.redrive import Redriver
from tests.db.tasks import applying
from tests.db.tasks.applying import TOPIC, Bench, nothing_in_kafka, slice_of, thing_set
from tests.harness.stacks import install

WHY = ("--reason", "test")
Run = Callable[..., str]


@pytest.fixture
def session(bench: Bench) -> Session:
    return bench.looking


@pytest.fixture
def redriver(bench: Bench, database_url: str) -> Iterator[Redriver]:
    opened = Session(database_url, application_name="test redrive", plans=BATCH_PLANS)
    yield Redriver(opened, bench.registry, nothing_in_kafka)
    opened.close()


@pytest.fixture
def run(bench: Bench, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that runs `sluice …` in this process and returns its output."""
    module = ModuleType("applying_things")
    for name in ("set_thing", "add_part", "break_thing", "notify", "things"):
        setattr(module, name, getattr(applying, name))
    module.topics = (Topic(TOPIC, entity=Entity("thing", 1)),)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "applying_things", module)
    monkeypatch.setenv("COLUMNS", "250")
    install(database_url)
    environ = {
        "SLUICE_DATABASE_URL": database_url,
        "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "SLUICE_HANDLERS": "applying_things",
    }

    def run(*words: str, exit_code: int = 0) -> str:
        result = CliRunner().invoke(app, words, env=environ)
        assert result.exit_code == exit_code, result.output
        return result.output

    return run


def refused(offset: int, key: str = "k") -> Record:
    """Returns a record whose row Postgres refuses until the test calls `allow`."""
    return thing_set(offset, key, amount=-1)


def allow(bench: Bench) -> None:
    """Removes the cause of the refusals, as a new deployment would."""
    bench.look("ALTER TABLE things DROP CONSTRAINT amount_not_negative")


def keyless(offset: int) -> Record:
    """Returns a record without a key, therefore without an entity. Postgres refuses its row."""
    record = refused(offset)
    return Record(record.offset, record.timestamp_ms, None, record.value, record.headers)


def fill(bench: Bench) -> None:
    """Makes six letters.

    Letter 1 (key `k`) is dead, and letters 2 and 3 (`k`) wait behind it. Letter 4 (`other`) is dead, 5 is
    a conflict, and 6 is dead and names no entity. The row of letter 2 is valid. The row of letter 3 has a
    negative amount, so Postgres would refuse it.
    """
    bench.apply(slice_of([refused(0)]))
    bench.apply(slice_of([thing_set(1, amount=5), thing_set(2, amount=-2)], prev=0))
    bench.apply(slice_of([refused(3, "other")], prev=2))
    # Two events have the same identity and different data.
    bench.apply(slice_of([thing_set(4, "c", amount=1), thing_set(5, "c", amount=2, event_id="e4")], prev=3))
    bench.apply(slice_of([keyless(6)], prev=5))
    assert bench.look("SELECT id, outcome, entity_key FROM sluice.dead_letters ORDER BY id") == [
        (1, "dead", "k"),
        (2, "waiting", "k"),
        (3, "waiting", "k"),
        (4, "dead", "other"),
        (5, "conflict", "c"),
        (6, "dead", None),
    ]


def states(bench: Bench) -> dict[int, str]:
    return dict(bench.look("SELECT id, state FROM sluice.dead_letters ORDER BY id"))


def audits(bench: Bench) -> list[tuple[Any, ...]]:
    return bench.look("SELECT verb, subject, reason FROM sluice.audit ORDER BY id")
