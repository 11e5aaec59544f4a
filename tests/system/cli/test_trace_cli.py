"""`sluice trace` on real services: for an applied event, a repeat, a dead event and a waiting event."""

from typing import Any

from examples.shop.generate import OutgoingRecord
from sluice.testing.servers.deployment import Deployment
from tests.system.cli.test_cli import document, sluice
from tests.system.conftest import MakeDeployment


def order(event_id: str, key: str, total_cents: Any = 100) -> OutgoingRecord:
    data = {"customer_id": "c", "email": "c@example.org", "total_cents": total_cents}
    return OutgoingRecord("orders", key, {"event_id": event_id, "type": "order.placed", "data": data})


def traced(deployment: Deployment, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = document(sluice(deployment, "trace", *words, "--json"))
    return found


def test_trace_shows_the_outcome_rows_emits_and_calls_of_an_event(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment(partitions=1)
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues("order"))
    good = order("e-1", "order-1")
    deployment.produce([good, good, order("e-2", "order-2", "free"), order("e-3", "order-2")])
    deployment.wait_settled()
    topic = f"orders{deployment.topic_suffix}"

    applied = traced(deployment, topic, "order-1", "e-1")
    assert (applied["offset"], applied["outcome"], applied["repeats"]) == (0, "applied", None)
    assert applied["rows"] == [{"table": "orders", "key": "order-1", "there": True, "version": None}]
    assert [(emit["topic"], emit["state"]) for emit in applied["emitted"]] == [
        ("order-events", "waits in the outbox")
    ]
    assert [(call["effect"], call["state"]) for call in applied["calls"]] == [("send_email", "pending")]
    assert applied["letter"] is None

    repeat = traced(deployment, f"{topic}:0:1")
    assert repeat["repeats"] == f"{topic}:0:0"

    dead = traced(deployment, f"{topic}:0:2")
    assert dead["outcome"] == "dead"
    assert "DecodeError" in dead["error"]
    assert dead["letter"]["before"] == 0
    assert "DecodeError" in dead["letter"]["parked_for"]

    waiting = traced(deployment, topic, "order-2", "e-3")
    assert (waiting["outcome"], waiting["letter"]["state"], waiting["letter"]["before"]) == (
        "waiting",
        "waiting",
        1,
    )
    assert waiting["rows"] == [{"table": "orders", "key": "order-2", "there": False, "version": None}]
    assert [emit["state"] for emit in waiting["emitted"]] == ["not written"]


def test_trace_reports_a_record_that_it_cannot_find(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment(partitions=1)
    deployment.run.start_bridge()
    deployment.produce([order("e-1", "order-1")])
    topic = f"orders{deployment.topic_suffix}"
    for words, sentence in (
        ((topic, "order-1", "e-1"), "no event e-1 with key order-1 of topic"),
        ((topic,), "pass a record as TOPIC:PARTITION:OFFSET"),
        (("nowhere:0:0",), "topic nowhere is declared by no module"),
    ):
        done = sluice(deployment, "trace", *words)
        assert done.returncode == 2
        assert sentence in done.stderr.decode()
        assert b"Traceback" not in done.stderr
