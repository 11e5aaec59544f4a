"""Output and refusals of `sluice reshard`, `dedup`, `pause` and `resume` on a real database."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner

from sluice.cli.main import app
from sluice.db.connection import Session
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.db.delivery.switches import read_paused_topics
from sluice.stack.patience import patient
from tests.harness.raw_sql import cursor_of
from tests.harness.stacks import install
from tests.waiting import wait_until

Run = Callable[..., str]


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    """Yields a session. Topic `orders` of the shop is registered, and no record of the topic was read."""
    opened = Session(database_url, application_name="test")
    register_topic(opened, TopicStart("orders", "id", "order", 2, {0: 0}))
    yield opened
    opened.close()


@pytest.fixture
def environ(database_url: str) -> dict[str, str]:
    """Returns settings with which a command can reach Postgres, but neither Kafka nor Redis."""
    install(database_url)
    return {
        "SLUICE_DATABASE_URL": database_url,
        "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "SLUICE_HANDLERS": "examples.shop.handlers",
    }


@pytest.fixture
def run(environ: dict[str, str]) -> Run:
    """Returns a function that runs a command and returns the output of the command."""

    def run(*words: str, exit_code: int = 0) -> str:
        result = CliRunner().invoke(app, [*words, "--reason", "why"], env=environ)
        assert result.exit_code == exit_code, result.output
        return result.output

    return run


def _read_order(session: Session, applied_offset: int) -> None:
    session.command(
        "INSERT INTO sluice.lane_offsets (topic, partition, queue, epoch, applied_offset)"
        f" VALUES ('orders', 0, 'order.0', 1, {applied_offset})"
    )


def test_resharding_prints_the_next_steps(session: Session, run: Run) -> None:
    tried = run("reshard", "order", "4", "--dry-run")
    assert "would have 4 shards, 2 before" in tried
    assert "now: everything is settled" in tried
    assert "pass --yes" in run("reshard", "order", "4", exit_code=2)
    done = run("reshard", "order", "4", "--yes")
    assert "if all of your workers have --queues, start a worker with --queues order.2,order.3" in done
    assert "declare shards=4 in code" in done
    assert "has 4 shards already" in run("reshard", "order", "4", "--yes", exit_code=2)
    assert "no longer used, kept for their counters: order.1, order.2" in run(
        "reshard", "order", "1", "--yes"
    )
    assert "no entity type alien" in run("reshard", "alien", "4", "--yes", exit_code=2)


def test_dedup_prints_what_changes(session: Session, run: Run) -> None:
    tried = run("dedup", "orders", "position", "--dry-run")
    assert 'topic orders would have dedup="position" (before: "id")' in tried
    assert "pass --yes" in run("dedup", "orders", "position", exit_code=2)
    done = run("dedup", "orders", "position", "--yes")
    assert "partitions: 0 from 0" in done
    assert 'declare dedup="position" in code' in done
    assert 'topic orders has dedup="position" already' in run("dedup", "orders", "position", exit_code=2)
    assert "its handlers are not checked" in run("dedup", "orders", "natural", exit_code=2)
    document = json.loads(run("dedup", "orders", "id", "--yes", "--json"))
    assert (document["before"], document["dedup"], document["epoch"]) == ("position", "id", 3)


def test_a_change_of_dedup_waits_for_records_in_flight(session: Session, run: Run) -> None:
    _read_order(session, 7)
    refused = run("dedup", "orders", "position", "--yes", "--patience", "0", exit_code=2)
    assert "1 lane has records in flight: nothing was changed" in refused
    assert read_paused_topics(session) == {}


def test_a_reshard_that_times_out_resumes_the_topics(session: Session, run: Run) -> None:
    _read_order(session, 7)
    refused = run("reshard", "order", "4", "--yes", "--patience", "0", exit_code=2)
    assert "1 lane has records in flight: nothing was changed" in refused
    assert "every queue has a worker" in refused
    assert read_paused_topics(session) == {}
    document = json.loads(run("reshard", "order", "4", "--dry-run", "--json"))
    assert document["unsettled"] == {"lanes": 1, "outgoing": 0, "refused": 0, "halted": 0}
    assert "has 4 shards" in run("reshard", "order", "4", "--yes", "--force")
    with cursor_of(session) as cursor:
        cursor.execute("SELECT verb, subject, details FROM sluice.audit ORDER BY id")
        verbs = cursor.fetchall()
    assert [(verb, subject) for verb, subject, _ in verbs] == [
        ("reshard", "topic orders"),
        ("reshard", "topic orders"),
        ("reshard", "topic orders"),
        ("reshard", "order"),
        ("reshard", "topic orders"),
    ]
    assert verbs[3][2]["force"] is True


def test_an_interrupted_reshard_resumes_the_topics(session: Session, environ: dict[str, str]) -> None:
    _read_order(session, 7)
    command = [sys.executable, "-m", "sluice.cli.main", "reshard", "order", "4", "--yes", "--reason", "why"]
    resharding = subprocess.Popen(command, env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(
            lambda: read_paused_topics(session), timeout_seconds=30, what="the command has paused the topic"
        )
        resharding.send_signal(signal.SIGINT)
        _, said = resharding.communicate(timeout=patient(60))
    finally:
        resharding.kill()
    assert resharding.returncode != 0
    assert "Traceback" not in said
    assert read_paused_topics(session) == {}


def test_topics_are_paused_and_resumed(session: Session, run: Run) -> None:
    assert run("pause", "--topic", "orders", "--dry-run") == "topic orders would be paused: why\n"
    assert read_paused_topics(session) == {}
    assert run("pause", "--topic", "orders") == "topic orders is paused: why\n"
    assert run("pause", "--topic", "orders") == "topic orders is paused already\n"
    assert "declared by no module" in run("pause", "--topic", "elsewhere", exit_code=2)
    assert run("resume", "--topic", "orders", "--dry-run") == "topic orders would be resumed\n"
    assert run("resume", "--topic", "orders") == "topic orders is resumed\n"
    assert run("resume", "--topic", "orders") == "topic orders is not paused\n"


def test_entities_are_paused_and_resumed(session: Session, run: Run) -> None:
    assert run("pause", "--entity", "order", "o-1") == "order o-1 is paused: why\n"
    assert run("pause", "--entity", "order", "o-1") == "order o-1 is paused already\n"
    assert run("resume", "--entity", "order", "o-1") == "order o-1 is resumed; no event waited\n"
    document = json.loads(run("resume", "--entity", "order", "o-1", "--json"))
    assert document == {"dry_run": False, "resumed": "order o-1", "changed": False, "redriven": None}


@pytest.mark.parametrize(
    "words", [(), ("--entity", "order"), ("o-1",), ("--topic", "orders", "--entity", "order", "o-1")]
)
def test_pause_requires_either_a_topic_or_an_entity(
    session: Session, run: Run, words: tuple[str, ...]
) -> None:
    assert "pass --topic TOPIC, or --entity ENTITY KEY" in run("pause", *words, exit_code=2)


def test_a_topic_that_no_bridge_has_read_cannot_be_accepted(session: Session, run: Run) -> None:
    assert "no bridge has read topic elsewhere" in run("accept", "elsewhere", "--yes", exit_code=2)
