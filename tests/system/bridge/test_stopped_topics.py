"""If a bridge would skip records of a topic, it stops the topic with a reason, and reads the other topics."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kafka import KafkaAdminClient, TopicPartition

from examples.shop.generate import generate
from sluice.bridge.queue_buffer import FULL_RECORDS, MAX_MESSAGES
from sluice.db.admin.totals import read_positions
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle

LOUD_STOP_EXIT_CODE = 3
EVENTS = 500
STOPPED = "partition is not read"


def test_a_recreated_topic_stops_and_the_others_continue(make_deployment: MakeDeployment) -> None:
    deployment, bridge, topic = _with_applied_payments(make_deployment)
    assert bridge.stop() == 0
    _recreate(deployment, topic)
    bridge = deployment.run.start_bridge(name="again")
    _wait_for_stop(deployment, bridge, "was re-created")
    deployment.produce(generate("users", count=EVENTS, seed=2))
    _wait_applied(deployment, "users", EVENTS)
    assert dict(deployment.outcomes("payments")) == {"applied": EVENTS}


@pytest.mark.matrix
def test_a_bridge_exits_when_its_only_topic_is_recreated(
    make_deployment: MakeDeployment,
) -> None:
    deployment, bridge, topic = _with_applied_payments(make_deployment, "tests.system.bridge.payments_app")
    _recreate(deployment, topic)
    # The new topic needs so many events that it also has the offsets that were applied in the old topic.
    deployment.produce(generate("payments", count=4 * EVENTS, seed=2))
    deployment.wait_until(
        lambda: bridge.exit_code is not None, timeout_seconds=60, what="the bridge ends by itself"
    )
    assert bridge.exit_code == LOUD_STOP_EXIT_CODE
    assert topic in bridge.tail()
    assert "sluice accept" in bridge.tail()
    assert dict(deployment.outcomes()) == {"applied": EVENTS}


@pytest.mark.matrix
def test_records_deleted_before_they_were_applied_stop_the_topic(make_deployment: MakeDeployment) -> None:
    deployment, bridge, topic = _with_applied_payments(make_deployment)
    assert bridge.stop() == 0
    before = read_positions(deployment.session)
    deployment.produce(generate("payments", count=EVENTS, seed=2))
    with _admin(deployment) as admin:
        admin.delete_records({TopicPartition(topic, n): before[topic, n] + 10 for n in range(4)})
    bridge = deployment.run.start_bridge(name="again")
    _wait_for_stop(deployment, bridge, "were deleted")
    assert read_positions(deployment.session) == before
    assert bridge.stop() == 0


def test_an_applied_offset_above_the_log_end_stops_the_topic_until_accepted(
    make_deployment: MakeDeployment,
) -> None:
    deployment, first, topic = _with_applied_payments(make_deployment)
    second = deployment.run.start_bridge(name="second")
    deployment.wait_until(
        lambda: "partitions started" in second.log.read_text(), timeout_seconds=60, what="both bridges read"
    )
    deployment.session.command(
        f"UPDATE sluice.lane_offsets SET applied_offset = 1000000 WHERE topic = '{topic}' AND partition = 0"
    )
    for bridge in (first, second):
        _wait_for_stop(deployment, bridge, "offset 1000000 was applied")
    deployment.produce(generate("payments", count=EVENTS, seed=2))
    deployment.produce(generate("users", count=EVENTS, seed=2))
    _wait_applied(deployment, "users", EVENTS)
    assert dict(deployment.outcomes("payments")) == {"applied": EVENTS}
    deployment.run.run_sluice("accept", topic, "--reason", "a test", "--yes")
    _wait_applied(deployment, "payments", 2 * EVENTS)
    for bridge in (first, second):
        _wait_for_line(deployment, bridge, "topic is no longer stopped")
        assert bridge.exit_code is None


@pytest.mark.matrix
def test_a_takeover_with_queued_messages_stops_no_topic(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    killed = deployment.run.start_bridge(name="killed")
    queues = deployment.queues("payment")
    full_lists = MAX_MESSAGES * FULL_RECORDS * len(queues)
    deployment.produce(generate("payments", count=3 * full_lists // 2, seed=1))
    deployment.wait_until(
        lambda: all(deployment.redis.llen(queue) >= MAX_MESSAGES for queue in queues),
        timeout_seconds=60,
        what="every queue has as many messages as one bridge sends",
    )
    killed.kill()
    bridge = deployment.run.start_bridge()
    deployment.run.start_worker(queues)
    deployment.produce(generate("payments", count=EVENTS, seed=2))
    deployment.wait_settled(timeout_seconds=120)
    assert STOPPED not in bridge.log.read_text()
    assert_equals_the_oracle(deployment)


def _with_applied_payments(
    make_deployment: MakeDeployment, base: str = "examples.shop.handlers"
) -> tuple[Deployment, RunningProcess, str]:
    """Returns a deployment with applied payments, its bridge, and the name of the topic of payments."""
    deployment = make_deployment(base)
    bridge = deployment.run.start_bridge()
    deployment.run.start_worker()
    deployment.produce(generate("payments", count=EVENTS, seed=1))
    deployment.wait_settled()
    return deployment, bridge, f"payments{deployment.topic_suffix}"


@contextmanager
def _admin(deployment: Deployment) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=deployment.urls.kafka_bootstrap_servers)
    try:
        yield admin
    finally:
        admin.close()


def _recreate(deployment: Deployment, topic: str) -> None:
    with _admin(deployment) as admin:
        admin.delete_topics([topic])
        deployment.wait_until(
            lambda: topic not in admin.list_topics(), timeout_seconds=30, what="the topic is deleted"
        )
        admin.create_topics({topic: {"num_partitions": 4, "replication_factor": 1}})
    # Closes the producer, which would use the old topic for a while.
    deployment.close()


def _wait_for_stop(deployment: Deployment, bridge: RunningProcess, why: str) -> None:
    _wait_for_line(deployment, bridge, STOPPED)
    line = _line(bridge, STOPPED)
    assert why in line
    assert "sluice accept" in line
    assert bridge.exit_code is None


def _wait_for_line(deployment: Deployment, bridge: RunningProcess, text: str) -> None:
    deployment.wait_until(
        lambda: text in bridge.log.read_text(), timeout_seconds=60, what=f"{text!r} is logged"
    )


def _wait_applied(deployment: Deployment, topic: str, events: int) -> None:
    deployment.wait_until(
        lambda: deployment.outcomes(topic).total() >= events,
        timeout_seconds=60,
        what=f"the events of {topic} are applied",
    )


def _line(bridge: RunningProcess, text: str) -> str:
    return next(line for line in bridge.log.read_text().splitlines() if text in line)
