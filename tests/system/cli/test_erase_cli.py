"""`sluice erase` on real services. Late and new records, a rebuild, `trace` and `audit` follow."""

import json
from typing import Any

import pytest

from examples.shop.generate import OutgoingRecord
from examples.shop.tables import billing_line_items, transactions
from sluice.testing.servers.deployment import Deployment
from tests.system.conftest import MakeDeployment
from tests.system.tasks.rebuilding import PROJECTION, lines_of, payments

KEY = "pay-3"
WHY = ("--reason", f"request of {KEY}")


@pytest.fixture
def deployment(make_deployment: MakeDeployment) -> Deployment:
    """Returns a deployment with ten applied payments. All kinds of processes run, except a worker."""
    made = make_deployment(partitions=2)
    made.run.start_bridge()
    worker = made.run.start_worker(made.queues("payment"))
    made.produce(payments(0, 10))
    made.wait_settled()
    worker.stop()
    made.run.start_relay()
    made.run.start_rebuilds()
    made.run.start_beat()
    return made


def paid(number: int) -> OutgoingRecord:
    """Returns another payment event of the entity. The handler inserts a row if the entity has no row."""
    data = {"account_id": "acc", "amount_cents": 1_000 + number}
    return OutgoingRecord(
        "payments", KEY, {"event_id": f"{number} of {KEY}", "type": "payment.received", "data": data}
    )


def document(deployment: Deployment, *words: str) -> Any:
    return json.loads(deployment.run.run_sluice(*words, "--json"))


def test_erased_events_are_not_applied_again_and_new_events_are_applied(deployment: Deployment) -> None:
    # These records are in Kafka, but no worker applies them before the erasure.
    deployment.produce([paid(1), OutgoingRecord("payments", KEY, {"about": KEY})])
    planned = deployment.run.run_sluice("erase", "payment", KEY, *WHY, "--dry-run")
    assert "payment would be erased" in planned
    refused = deployment.run.sluice("erase", "payment", KEY, *WHY)
    assert (refused.returncode, b"pass --yes" in refused.stderr) == (2, True)
    assert KEY in deployment.rows(transactions)

    done = document(deployment, "erase", "payment", KEY, *WHY, "--yes")
    rows = {name: count for name, count in done["rows"].items() if count}
    assert rows == {"transactions": 1, f"{PROJECTION}_g1": 1}
    assert KEY not in json.dumps(done)
    audits = deployment.run.run_sluice("audit", "ls", "--json")
    assert (KEY in audits, done["erased"] in audits) == (False, True)

    deployment.run.start_worker(deployment.queues("payment"))
    deployment.wait_settled()
    assert deployment.outcomes("payments") == {"applied": 10, "erased": 2}
    assert KEY not in deployment.rows(transactions)
    trace = deployment.run.run_sluice("trace", _place(deployment), "--json")
    assert (json.loads(trace)["outcome"], KEY in trace) == ("erased", False)

    started = deployment.run.run_sluice("rebuild", "start", PROJECTION, *WHY)
    assert "generation 2 is ready" in started
    assert sorted(lines_of(deployment, 2)) == sorted(f"pay-{n}" for n in range(10) if n != 3)

    deployment.produce([paid(2)])
    deployment.wait_settled()
    assert deployment.rows(transactions)[KEY]["amount_cents"] == 1_002
    assert KEY in lines_of(deployment, 2)
    assert KEY in deployment.rows(billing_line_items)


def _place(deployment: Deployment) -> str:
    """Returns the topic, partition and offset of an erased record."""
    topic = f"payments{deployment.topic_suffix}"
    with deployment.session.connection.cursor() as cursor:
        cursor.execute(
            "SELECT partition, \"offset\" FROM sluice.processed_events WHERE outcome = 'erased' LIMIT 1"
        )
        partition, offset = cursor.fetchall()[0]
    return f"{topic}:{partition}:{offset}"


def test_erase_changes_nothing_when_kafka_is_unreachable(deployment: Deployment) -> None:
    environ = {"SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    done = deployment.run.sluice("erase", "payment", KEY, *WHY, "--yes", environ=environ)
    assert (done.returncode, b"Kafka (SLUICE_KAFKA_BOOTSTRAP_SERVERS)" in done.stderr) == (2, True)
    assert KEY in deployment.rows(transactions)
