"""Text output of `sluice outbox` and `sluice effects` on a real database."""

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from sluice.cli.main import app
from sluice.db.connection import Session
from tests.db.admin.leaving import insert_call, insert_event, rows
from tests.harness.stacks import install

Run = Callable[..., str]


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that runs a command, checks its exit code and returns its output."""
    monkeypatch.setenv("COLUMNS", "200")
    install(database_url)
    environ = {
        "SLUICE_DATABASE_URL": database_url,
        "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "SLUICE_HANDLERS": "examples.shop.handlers",
    }

    def run(*words: str, exit_code: int = 0) -> str:
        result = CliRunner().invoke(app, words, env=environ)
        assert result.exit_code == exit_code, result.output
        return result.output

    return run


def test_events_for_a_topic_that_does_not_exist_are_shown_with_the_reason(
    session: Session, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_event(session, 3, queue="order.1", topic="gone")
    insert_event(session, 9, topic="gone")
    insert_event(session, 4, topic="there")
    insert_event(session, 5, topic="a b")
    session.command(
        "UPDATE sluice.outbox_events SET created_at = now() - interval '1 hour' WHERE id IN (3, 4)"
    )
    asked = []

    def find_missing(_: str, topics: list[str]) -> set[str]:
        asked.append(topics)
        return {"gone"}

    monkeypatch.setattr("sluice.cli.outbox.find_missing_topics", find_missing)
    lines = [line.split() for line in run("outbox", "ls").splitlines()]
    assert ["gone", "order.1", "3", "2", "60m", "Kafka", "has", "no", "such", "topic"] in lines
    assert [line[:4] for line in lines if line[:2] == ["a", "b"]] == [["a", "b", "order.0", "5"]]
    assert asked == [["gone", "there"]]
    [one] = json.loads(run("outbox", "ls", "--topic", "gone", "--json"))["unsendable"]
    assert (one["topic"], one["queue"], one["id"], one["events"]) == ("gone", "order.1", 3, 2)
    assert one["reason"] == "Kafka has no such topic"
    assert "unsendable" not in json.loads(run("outbox", "ls", "--refused", "--json"))


def test_the_outbox_is_shown_without_kafka(session: Session, run: Run) -> None:
    insert_event(session, 3, topic="gone")
    session.command("UPDATE sluice.outbox_events SET created_at = now() - interval '1 hour'")
    shown = run("outbox", "ls")
    assert "order.0" in shown
    assert "missing topics are not shown: Kafka (SLUICE_KAFKA_BOOTSTRAP_SERVERS)" in shown


def test_refused_outgoing_events_are_shown_retried_and_dropped(session: Session, run: Run) -> None:
    assert run("outbox", "ls") == "no outgoing event waits\nno record is refused\n"
    insert_event(session, 1, refused="too large", payload=b'{"n": 1}')
    insert_event(session, 2)
    lines = [line.split() for line in run("outbox", "ls").splitlines()]
    assert lines[1][:3] == ["order.0", "2", "1"]
    assert lines[-1][:4] == ["order.0", "1", "out", "k"]
    assert lines[-1][-2:] == ["too", "large"]
    assert "refused" not in run("outbox", "ls", "--refused").splitlines()[0]
    shown = run("outbox", "show", "order.0", "1")
    assert 'payload: {"n":1}\n' in shown
    assert "error: too large\n" in shown
    assert "no event with id 9 waits in queue order.0" in run("outbox", "show", "order.0", "9", exit_code=2)
    retry = ("outbox", "retry", "order.0", "1", "--reason", "r")
    assert "would be tried again: the broker refused it: too large" in run(*retry, "--dry-run")
    assert "is tried again: the broker refused it: too large" in run(*retry)
    assert run("outbox", "retry", "--all", "--reason", "r") == "no record is refused\n"
    drop = ("outbox", "drop", "order.0", "2", "--even-if-waiting", "--reason", "r")
    assert "would be dropped" in run(*drop, "--dry-run")
    assert "is dropped" in run(*drop, "--yes")
    for number in (3, 4):
        insert_event(session, number, refused="held")
    insert_event(session, 5, topic="other", refused="held")
    insert_event(session, 6)
    drop_all = ("outbox", "drop", "--all", "--reason", "r")
    assert run(*drop_all, "--topic", "out", "--dry-run") == "2 refused events would be dropped\n"
    assert "2 refused events will never be sent" in run(*drop_all, "--topic", "out", exit_code=2)
    assert run(*drop_all, "--topic", "out", "--yes") == "2 refused events are dropped\n"
    assert run(*drop_all, "--yes") == "1 refused event is dropped\n"
    assert [row[0] for row in rows(session, "SELECT id FROM sluice.outbox_events ORDER BY id")] == [1, 6]
    for wrong in (
        (),
        ("order.0", "6", "--all"),
        ("order.0", "6", "--topic", "t"),
        ("--all", "--even-if-waiting"),
    ):
        assert "pass QUEUE and ID of one event, or --all" in run(
            "outbox", "drop", "--reason", "r", *wrong, exit_code=2
        )


def test_calls_are_shown_retried_paused_and_resumed(session: Session, run: Run) -> None:
    assert run("effects", "ls") == "no call matches the filters\n"
    assert run("effects", "reconcile", "--all", "--reason", "r") == "no call matches the filters\n"
    for number in range(3):
        insert_call(session, f"k{number}", "failed", effect="send_email", error="no such mailbox")
    insert_call(session, "waits", effect="send_email")
    insert_call(session, "earlier", "running", effect="send_email")
    listed = run("effects", "ls", "--limit", "2")
    assert listed.splitlines()[0].split() == ["effect", "pending", "running", "failed"]
    assert "no such mailbox" in listed
    assert "there may be more rows; to see them, pass --after 4" in listed
    assert listed.count("no such mailbox") == 1, "one row lists the calls with this error"
    assert "k2" in run("effects", "ls", "--limit", "2", "--after", "4", "--older-than", "0s")
    assert 'waits for: ["earlier must end first: it is running"]' in run("effects", "show", "waits")
    assert "there is no call k9" in run("effects", "show", "k9", exit_code=2)
    assert run("effects", "ls", "--conflicts") == "no call has the key of an earlier call with other args\n"
    retry = ("effects", "retry", "k0", "k1", "--reason", "r")
    assert "k0: failed → would become pending: it is due now" in run(*retry, "--dry-run")
    assert "k1: failed → pending: it is due now" in run(*retry)
    assert "k1: pending, not changed: only failed and uncertain" in run(*retry, exit_code=1)
    assert run("effects", "pause", "--reason", "why", "--dry-run") == "all calls would be paused: why\n"
    assert run("effects", "resume", "--reason", "why") == "calls are not paused\n"
    assert run("effects", "pause", "--reason", "why") == "all calls are paused: why\n"
    assert run("effects", "pause", "--reason", "again") == "calls are paused already: why\n"
    assert run("effects", "ls").startswith("all calls are paused: why\n")
    assert run("effects", "resume", "--reason", "why") == "calls are resumed\n"


def test_all_uncertain_calls_can_be_settled_together_only_as_failed(session: Session, run: Run) -> None:
    for number in range(3):
        insert_call(session, f"k{number}", "uncertain", effect="send_email")
    insert_call(session, "other", "uncertain")
    insert_call(session, "waits", effect="send_email")
    settle = ("effects", "settle", "--reason", "r", "--all")
    assert "--all requires --as failed" in run(*settle, "--as", "succeeded", exit_code=2)
    assert "k0: uncertain → would become failed" in run(*settle, "--as", "failed", "--dry-run")
    asked = run(*settle, "--as", "failed", "--effect", "send_email", exit_code=2)
    assert "Sluice will record that 3 calls failed" in asked
    run(*settle, "--as", "failed", "--effect", "send_email", "--yes")
    states = "SELECT effect_key, state FROM sluice.executed_side_effects ORDER BY effect_key"
    failed = [(f"k{number}", "failed") for number in range(3)]
    assert rows(session, states) == [*failed, ("other", "uncertain"), ("waits", "pending")]
