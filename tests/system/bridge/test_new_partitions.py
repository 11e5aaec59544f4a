"""Partitions are added while the only bridge restarts. Kafka assigns new partitions only at a rebalance."""

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from examples.shop.generate import generate
from sluice.testing.servers.local_run import RunningProcess
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle
from tests.waiting import wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]


@pytest.mark.parametrize("client", ["confluent", "kafka-python"])
def test_partitions_added_while_the_bridge_restarts_are_read_within_a_minute(
    make_deployment: MakeDeployment, client: str
) -> None:
    deployment = make_deployment(partitions=2, SLUICE_KAFKA_CLIENT=client)
    run = deployment.run
    (topic,) = [name for name in deployment.registry.topics if name.startswith("users")]
    run.start_worker()
    bridge = run.start_bridge()
    wait_for(bridge, f"{topic}[1] at", timeout_seconds=30)
    bridge.stop()
    admin = AdminClient({"bootstrap.servers": deployment.urls.kafka_bootstrap_servers})
    admin.create_partitions([NewPartitions(topic, 4)])[topic].result()
    bridge = run.start_bridge()
    wait_for(bridge, f"{topic}[1] at", timeout_seconds=30)
    deployment.produce(generate("users", count=200, seed=1))
    wait_for(bridge, f"{topic}[3] at", timeout_seconds=90)
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)


def wait_for(bridge: RunningProcess, text: str, *, timeout_seconds: float) -> None:
    wait_until(
        lambda: text in bridge.log.read_text(), timeout_seconds=timeout_seconds, what=f"{text!r} is logged"
    )
