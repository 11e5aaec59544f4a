"""`sluice outbox` and `sluice effects` on real services: an operator settles failed calls and records."""

import json
import random
from collections import Counter
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from sqlalchemy import create_engine

from examples.shop.generate import OutgoingRecord, event, generate
from examples.shop.outside.faults import Fault
from sluice.db.admin.totals import read_outgoing
from sluice.tasks.api import Emit
from sluice.tasks.outbox.emit import emit
from sluice.testing.servers.deployment import Deployment
from tests.harness.providers import Providers
from tests.system.cli.test_cli import document, sluice
from tests.system.conftest import MakeDeployment

WHY = ("--reason", "test")


@pytest.fixture
def deployment(make_deployment: MakeDeployment, providers: Providers) -> Deployment:
    """Returns a deployment on which bridge, worker, relay, beat and effects worker run."""
    made = make_deployment(**providers.environ())
    made.run.start_bridge()
    made.run.start_worker(made.queues("payment", "order"))
    made.run.start_relay()
    made.run.start_beat()
    made.run.start_effects()
    return made


def order(number: int) -> OutgoingRecord:
    customer = f"cust-{number}"
    data = {"customer_id": customer, "email": f"{customer}@example.org", "total_cents": 25_000}
    key = f"order-{number}"
    return OutgoingRecord("orders", key, event(random.Random(key), "order.placed", data))


def warnings(deployment: Deployment) -> str:
    findings = document(sluice(deployment, "doctor", "--json"))["findings"]
    return "\n".join(one["problem"] for one in findings if one["severity"] == "warning")


def listed(deployment: Deployment, *words: str) -> Any:
    return document(sluice(deployment, "effects", "ls", *words, "--json"))


def changed(deployment: Deployment, *words: str, exit_code: int = 0) -> dict[str, str | None]:
    """Runs a command of `effects`. Returns effect key → new state, or None if the call was not changed."""
    done = sluice(deployment, "effects", *words, *WHY, "--json")
    assert done.returncode == exit_code, done.stderr.decode()
    return {one["effect_key"]: one["after"] for one in document(done)["calls"]}


def audits(deployment: Deployment) -> Counter[str]:
    with deployment.session.connection.cursor() as cursor:
        cursor.execute("SELECT verb FROM sluice.audit WHERE reason = 'test' AND actor LIKE '%@%'")
        return Counter(verb for (verb,) in cursor.fetchall())


def received(providers: Providers) -> Counter[str]:
    return Counter(to for message in providers.mail.messages() for to in message.to)


def test_reconcile_finds_uncertain_emails_or_sends_them(deployment: Deployment, providers: Providers) -> None:
    providers.mail.set_faults(
        Fault("before", "drop", times=1, matching="cust-1@example.org"),
        Fault("after", "drop", times=1, matching="cust-2@example.org"),
    )
    deployment.produce([order(1), order(2), order(3)])
    deployment.wait_settled()
    deployment.wait_called()
    shown = listed(deployment, "--state", "uncertain")
    assert shown["counts"] == [{"effect": "send_email", "state": "uncertain", "calls": 2}]
    keys = {call["entity_key"]: call["effect_key"] for call in shown["calls"]}
    assert set(keys) == {"order-1", "order-2"}
    assert "which may have been made: 2." in warnings(deployment)
    whole = document(sluice(deployment, "effects", "show", keys["order-1"], "--json"))
    assert (whole["args"]["to"], whole["state"], whole["waits_for"]) == (
        "cust-1@example.org",
        "uncertain",
        [],
    )

    expected = {keys["order-1"]: "pending", keys["order-2"]: "succeeded"}
    assert changed(deployment, "reconcile", "--all", "--dry-run") == expected
    assert deployment.calls() == {"uncertain": 2, "succeeded": 1}
    assert changed(deployment, "reconcile", "--all") == expected
    deployment.wait_called()
    assert deployment.calls() == {"succeeded": 3}
    assert received(providers) == {f"cust-{number}@example.org": 1 for number in (1, 2, 3)}
    assert audits(deployment) == {"effects reconcile": 2}
    assert "may have been made" not in warnings(deployment)
    assert changed(deployment, "reconcile", keys["order-1"], exit_code=1) == {keys["order-1"]: None}


def test_a_call_stays_uncertain_without_the_provider_until_an_operator_decides(
    deployment: Deployment, providers: Providers
) -> None:
    providers.mail.set_faults(
        *(Fault("after", "drop", times=1, matching=f"cust-{n}@example.org") for n in (1, 2))
    )
    deployment.produce([order(1), order(2)])
    deployment.wait_settled()
    deployment.wait_called()
    keys = {call["entity_key"]: call["effect_key"] for call in listed(deployment)["calls"]}
    providers.mail.process.kill()
    away = sluice(deployment, "effects", "reconcile", "--all", *WHY)
    assert away.returncode == 1
    assert away.stdout.decode().count("uncertain, not changed: the result is not known: ") == 2
    providers.mail.start()

    for words in (("retry", keys["order-1"]), ("settle", keys["order-1"], "--as", "succeeded")):
        asked = sluice(deployment, "effects", *words, *WHY)
        assert (asked.returncode, asked.stdout) == (2, b"")
        assert b"pass --yes" in asked.stderr
    assert b"may be made twice" in sluice(deployment, "effects", "retry", keys["order-1"], *WHY).stderr
    settle = ("settle", keys["order-1"], "--as", "succeeded", "--response", '{"told": "by phone"}')
    assert changed(deployment, *settle, "--yes") == {keys["order-1"]: "succeeded"}
    assert changed(deployment, "retry", "--all", "--state", "uncertain", "--yes") == {
        keys["order-2"]: "pending"
    }
    deployment.wait_called()
    assert deployment.calls() == {"succeeded": 2}
    # The second e-mail was sent twice, as the warning before the retry said.
    assert received(providers) == {"cust-1@example.org": 1, "cust-2@example.org": 2}
    whole = document(sluice(deployment, "effects", "show", keys["order-1"], "--json"))
    assert whole["response"] == {"told": "by phone"}
    assert audits(deployment) == {"effects settle": 1, "effects retry": 1}


@pytest.mark.matrix
@pytest.mark.unforked
def test_paused_calls_wait_and_are_made_after_resume(deployment: Deployment, providers: Providers) -> None:
    assert document(sluice(deployment, "effects", "pause", *WHY, "--json"))["changed"]
    again = document(sluice(deployment, "effects", "pause", "--reason", "other", "--json"))
    assert (again["changed"], again["paused"]) == (False, "test")
    deployment.produce(list(generate("captures", count=5, seed=1)))
    deployment.wait_settled()
    shown = listed(deployment)
    assert (shown["paused"], shown["counts"]) == (
        "test",
        [{"effect": "capture_payment", "state": "pending", "calls": 5}],
    )
    key = shown["calls"][0]["effect_key"]
    whole = document(sluice(deployment, "effects", "show", key, "--json"))
    assert whole["waits_for"] == ["all calls are paused: test"]
    assert document(sluice(deployment, "status", "--json"))["effects_paused"] == "test"
    assert b"all calls are paused: test" in sluice(deployment, "status").stdout
    assert "All calls are paused: test." in warnings(deployment)
    assert not providers.payments.requests()
    assert sluice(deployment, "effects", "resume", *WHY).returncode == 0
    deployment.wait_called()
    assert deployment.calls() == {"succeeded": 5}
    assert audits(deployment) == {"effects pause": 1, "effects resume": 1}


def test_a_refused_record_is_listed_and_retried_or_dropped(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    topic = f"small{deployment.topic_suffix}"
    deployment.registry.outgoing_topics.add(topic)
    admin = KafkaAdminClient(bootstrap_servers=deployment.urls.kafka_bootstrap_servers)
    shape = {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "2000"}}
    admin.create_topics({topic: shape}, wait_for_metadata=True)
    engine = create_engine(deployment.urls.database_url)
    with engine.begin() as connection:
        ids = emit(
            connection,
            [Emit(topic, key, "x", data) for key in ("a", "b") for data in ("y" * 5_000, "behind it")],
        )
    engine.dispose()
    deployment.run.start_relay()
    deployment.run.start_beat()

    def refused() -> list[dict[str, Any]]:
        shown = document(sluice(deployment, "outbox", "ls", "--refused", "--topic", topic, "--json"))
        found: list[dict[str, Any]] = shown["refused"]
        return found

    deployment.wait_until(lambda: len(refused()) == 2, timeout_seconds=60, what="both are refused")
    first, second = sorted(refused(), key=lambda one: str(one["key"]))
    assert (first["key"], first["behind"], second["key"], second["behind"]) == ("a", 1, "b", 1)
    whole = document(sluice(deployment, "outbox", "show", first["queue"], str(first["id"]), "--json"))
    assert (whole["event_id"], whole["payload"], whole["error"]) == (str(ids[0]), "y" * 5_000, first["error"])
    assert "the broker refuses: 2;" in warnings(deployment)

    drop = ("outbox", "drop", first["queue"], str(first["id"]), *WHY)
    unsure = sluice(deployment, *drop)
    assert (unsure.returncode, unsure.stdout) == (2, b"")
    assert b"will never be sent" in unsure.stderr
    behind = sluice(deployment, "outbox", "drop", first["queue"], str(first["id"] + 1), *WHY, "--yes")
    assert b"is not refused" in behind.stderr
    assert document(sluice(deployment, *drop, "--dry-run", "--json"))["dropped"]["event_id"] == str(ids[0])
    assert len(refused()) == 2
    assert sluice(deployment, *drop, "--yes").returncode == 0
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": "100000"})])
    admin.close()
    tried = document(sluice(deployment, "outbox", "retry", "--all", "--topic", topic, *WHY, "--json"))
    assert [one["id"] for one in tried["retried"]] == [second["id"]]
    deployment.wait_sent()
    assert {event_id for _, _, event_id in deployment.sent()} == set(ids[1:])
    assert [event_id for _, key, event_id in deployment.sent() if key == "b"] == ids[2:]
    assert not read_outgoing(deployment.session)
    assert audits(deployment) == {"outbox drop": 1, "outbox retry": 1}
    nothing: dict[str, list[str]] = {"refused": [], "waiting": [], "unsendable": []}
    assert json.loads(sluice(deployment, "outbox", "ls", "--json").stdout) == nothing
