"""A rebuild from a recreated topic makes the same rows as the live generation."""

import json
from contextlib import closing
from typing import Any

import pytest
from kafka import KafkaAdminClient

from sluice.testing.servers.deployment import Deployment
from tests.system.conftest import MakeDeployment
from tests.system.tasks.rebuilding import (
    PROJECTION,
    lines_of,
    payments,
    right_line,
    sluice,
    start_live,
    wait_ready,
)

OLD, NEW, PARTITIONS = 100, 10, 3
WHY = ("--reason", "a test")


def accept(deployment: Deployment, topic: str, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        deployment.run.run_sluice("accept", topic, *WHY, "--yes", "--json", *options)
    )
    return found


def recreate(deployment: Deployment, topic: str) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=deployment.urls.kafka_bootstrap_servers)) as admin:
        admin.delete_topics([topic])
        deployment.wait_until(
            lambda: topic not in admin.list_topics(), timeout_seconds=30, what="the topic is deleted"
        )
        admin.create_topics({topic: {"num_partitions": PARTITIONS, "replication_factor": 1}})
    # Closes the producer, because it would still use the metadata of the old topic.
    deployment.close()


@pytest.mark.matrix
def test_a_rebuild_from_a_recreated_topic_equals_the_live_generation(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment(partitions=PARTITIONS)
    topic = f"payments{deployment.topic_suffix}"
    start_live(deployment)
    deployment.produce(payments(0, OLD))
    deployment.wait_settled()
    # Nothing has reported a problem of the topic yet.
    healthy = accept(deployment, topic)
    assert (healthy["accepted"], healthy["epoch"], healthy["reasons"]) == (False, None, [])
    recreate(deployment, topic)
    deployment.produce(payments(0, OLD))
    deployment.produce(payments(OLD, NEW))
    deployment.wait_until(
        lambda: bool(accept(deployment, topic, "--dry-run")["reasons"]),
        timeout_seconds=30,
        what="Kafka names the new topic",
    )
    assert accept(deployment, topic)["accepted"]
    deployment.wait_until(
        lambda: deployment.outcomes("payments")["applied"] == OLD + NEW,
        timeout_seconds=60,
        what="the events of the new topic are applied",
    )
    deployment.wait_settled()
    deployment.run.start_rebuilds()
    plan = sluice(deployment, "plan", PROJECTION)
    assert plan["refusals"] == []
    assert "was created again or moved" in plan["notes"][0]
    sluice(deployment, "start", PROJECTION, *WHY, "--no-wait")
    wait_ready(deployment, 2)
    want = {f"pay-{n}": right_line(n) for n in range(OLD + NEW)}
    assert lines_of(deployment, 1) == want
    assert lines_of(deployment, 2) == want
    # While the generation is kept in sync, events are repeated.
    deployment.produce(payments(0, OLD))
    deployment.wait_settled()
    assert sluice(deployment, "diff", PROJECTION)["rows"]["same"] == OLD + NEW
