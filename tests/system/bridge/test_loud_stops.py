"""Situations in which going on would skip records: the bridge stops, says why, and touches nothing."""

from kafka import KafkaAdminClient, TopicPartition

from examples.shop.generate import generate
from sluice.db.admin.totals import read_positions
from tests.harness.deployment import Deployment
from tests.harness.local_run import RunningProcess
from tests.system.conftest import MakeDeployment

LOUD_STOP_EXIT_CODE = 3
EVENTS = 500


def test_a_topic_created_anew_stops_the_bridge(make_deployment: MakeDeployment) -> None:
    deployment, bridge = _with_applied_payments(make_deployment)
    assert bridge.stop() == 0
    topic = _create_payments_anew(deployment)
    _assert_loud_stop(deployment, deployment.run.start_bridge(), topic, "sluice accept")


def test_a_topic_created_anew_under_a_bridge_stops_it_before_its_records_are_applied(
    make_deployment: MakeDeployment,
) -> None:
    deployment, bridge = _with_applied_payments(make_deployment)
    topic = _create_payments_anew(deployment)
    # The producer would go on with the old one for a while.
    deployment.close()
    # So many that the positions in the old one lie amid them.
    deployment.produce(generate("payments", count=4 * EVENTS, seed=2))
    _assert_loud_stop(deployment, bridge, topic, "sluice accept")
    assert dict(deployment.outcomes()) == {"applied": EVENTS}


def test_records_deleted_before_they_were_applied_stop_the_bridge(make_deployment: MakeDeployment) -> None:
    deployment, bridge = _with_applied_payments(make_deployment)
    assert bridge.stop() == 0
    topic = f"payments{deployment.topic_suffix}"
    before = read_positions(deployment.session)
    deployment.produce(generate("payments", count=EVENTS, seed=2))
    admin = KafkaAdminClient(bootstrap_servers=deployment.urls.kafka_bootstrap_servers)
    try:
        admin.delete_records({TopicPartition(topic, n): before[topic, n] + 10 for n in range(4)})
    finally:
        admin.close()
    _assert_loud_stop(deployment, deployment.run.start_bridge(), topic, "sluice accept")
    assert read_positions(deployment.session) == before


def _with_applied_payments(make_deployment: MakeDeployment) -> tuple[Deployment, RunningProcess]:
    """Payments applied; and the bridge."""
    deployment = make_deployment()
    bridge = deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues("payment"))
    deployment.produce(generate("payments", count=EVENTS, seed=1))
    deployment.wait_settled()
    return deployment, bridge


def _create_payments_anew(deployment: Deployment) -> str:
    topic = f"payments{deployment.topic_suffix}"
    admin = KafkaAdminClient(bootstrap_servers=deployment.urls.kafka_bootstrap_servers)
    try:
        admin.delete_topics([topic])
        deployment.wait_until(
            lambda: topic not in admin.list_topics(), timeout_seconds=30, what="the topic is deleted"
        )
        admin.create_topics({topic: {"num_partitions": 4, "replication_factor": 1}})
    finally:
        admin.close()
    return topic


def _assert_loud_stop(deployment: Deployment, bridge: RunningProcess, topic: str, advice: str) -> None:
    deployment.wait_until(
        lambda: bridge.exit_code is not None, timeout_seconds=60, what="the bridge stops by itself"
    )
    assert bridge.exit_code == LOUD_STOP_EXIT_CODE
    assert topic in bridge.tail()
    assert advice in bridge.tail()
