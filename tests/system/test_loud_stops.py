"""Situations in which going on would skip records: the bridge stops, says why, and touches nothing."""

from kafka import KafkaAdminClient, TopicPartition

from db.totals import read_positions
from ops.trial.deployment import Deployment
from shop.generate import generate
from tests.system.conftest import MakeDeployment

LOUD_STOP_EXIT_CODE = 3
EVENTS = 500


def test_a_topic_created_anew_stops_the_bridge(make_deployment: MakeDeployment) -> None:
    deployment = _with_applied_payments(make_deployment)
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
    _assert_loud_stop(deployment, topic, "sluice accept")


def test_records_deleted_before_they_were_applied_stop_the_bridge(make_deployment: MakeDeployment) -> None:
    deployment = _with_applied_payments(make_deployment)
    topic = f"payments{deployment.topic_suffix}"
    before = read_positions(deployment.session)
    deployment.produce(generate("payments", count=EVENTS, seed=2))
    admin = KafkaAdminClient(bootstrap_servers=deployment.urls.kafka_bootstrap_servers)
    try:
        admin.delete_records({TopicPartition(topic, n): before[topic, n] + 10 for n in range(4)})
    finally:
        admin.close()
    _assert_loud_stop(deployment, topic, "sluice accept")
    assert read_positions(deployment.session) == before


def _with_applied_payments(make_deployment: MakeDeployment) -> Deployment:
    """Payments applied, the bridge stopped."""
    deployment = make_deployment()
    bridge = deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues("payment"))
    deployment.produce(generate("payments", count=EVENTS, seed=1))
    deployment.wait_settled()
    assert bridge.stop() == 0
    return deployment


def _assert_loud_stop(deployment: Deployment, topic: str, advice: str) -> None:
    bridge = deployment.run.start_bridge()
    deployment.wait_until(
        lambda: bridge.exit_code is not None, timeout_seconds=60, what="the bridge stops by itself"
    )
    assert bridge.exit_code == LOUD_STOP_EXIT_CODE
    assert topic in bridge.tail()
    assert advice in bridge.tail()
