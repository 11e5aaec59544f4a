"""Bridges with brokers that are down, restart or refuse. Bridges read all they can and report the rest."""

import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL

import pytest
from confluent_kafka import TopicCollection
from confluent_kafka.admin import AclOperation, ResourceType  # type: ignore[attr-defined]

from examples.shop.generate import generate
from sluice.db.delivery.partition_reads import PartitionRead, read_partition_reads
from sluice.db.records import ProblemKind
from sluice.runtime.health import is_healthy
from sluice.runtime.place import Place
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.harness.kafka_cluster import REPLICATED, WITH_AUTHORIZER, KafkaCluster, kafka_cluster
from tests.harness.kafka_rights import Right, build_admin
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import SteadyLoad, assert_equals_the_oracle

pytestmark = [pytest.mark.matrix, pytest.mark.unforked, pytest.mark.timeout(1_800)]

CLIENTS = ("confluent", "kafka-python")
RATE = 100
SETTLE_SECONDS = 5  # The seconds of load between two restarts.


@pytest.fixture
def brokers() -> tuple[int, dict[str, str]]:
    """Returns the number of brokers, and their settings."""
    return 3, REPLICATED


@pytest.fixture
def kafka(brokers: tuple[int, dict[str, str]], tmp_path: Path) -> Iterator[KafkaCluster]:
    """Yields a cluster that replaces the broker of the test run."""
    with kafka_cluster(tmp_path / "kafka", *brokers) as cluster:
        yield cluster


@pytest.mark.parametrize("client", CLIENTS)
def test_two_bridges_continue_during_a_rolling_restart_of_three_brokers(
    make_deployment: MakeDeployment, kafka: KafkaCluster, client: str
) -> None:
    deployment = make_deployment(replication=3, SLUICE_KAFKA_CLIENT=client)
    bridges = [deployment.run.start_bridge(name=f"bridge-{number}") for number in (1, 2)]
    deployment.run.start_worker()

    with SteadyLoad(deployment, lambda count, first: mixed_events(count, seed=first), rate=RATE) as load:
        load.wait_more(SETTLE_SECONDS)
        for node in kafka.nodes:
            kafka.stop(node)
            kafka.start(node)
            load.wait_more(SETTLE_SECONDS)
    deployment.wait_settled(timeout_seconds=180)
    assert_equals_the_oracle(deployment)
    assert [bridge.exit_code for bridge in bridges] == [None, None]


@pytest.mark.parametrize("client", CLIENTS)
def test_partitions_without_a_leader_are_reported_and_the_others_are_read(
    make_deployment: MakeDeployment, kafka: KafkaCluster, client: str
) -> None:
    deployment = make_deployment(SLUICE_KAFKA_CLIENT=client)
    led = _leaders(deployment, kafka)
    lone = {place for place, node in led.items() if node == 3}
    assert lone
    assert lone != led.keys()
    bridge = deployment.run.start_bridge(name="first")
    _wait_for_reads(deployment, led.keys(), {})
    assert bridge.stop() == 0
    kafka.stop(3, SIGKILL)
    bridge = deployment.run.start_bridge()
    _wait_for_reads(deployment, led.keys() - lone, dict.fromkeys(lone, ProblemKind.NO_LEADER))
    assert _is_healthy(deployment, bridge)
    kafka.start(3)
    deployment.run.start_worker()
    _wait_for_reads(deployment, led.keys(), {})
    deployment.produce(mixed_events(1_000, seed=1))
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)
    assert bridge.exit_code is None


@pytest.mark.parametrize("brokers", [(1, WITH_AUTHORIZER)])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_denied_topic_and_a_denied_group_are_reported_until_allowed(
    make_deployment: MakeDeployment, kafka: KafkaCluster, client: str
) -> None:
    deployment = make_deployment(SLUICE_KAFKA_CLIENT=client)
    deployment.run.start_worker()
    places = _leaders(deployment, kafka).keys()
    bridge = deployment.run.start_bridge()
    _wait_for_reads(deployment, places, {})
    denied = f"payments{deployment.topic_suffix}"
    of_denied = {place for place in places if place[0] == denied}
    with _denied(kafka, ResourceType.TOPIC, denied, AclOperation.ALL):
        problems = dict.fromkeys(of_denied, ProblemKind.NOT_AUTHORIZED)
        _wait_for_reads(deployment, places - of_denied, problems)
        deployment.produce(generate("users", count=100, seed=1))
        deployment.wait_until(
            lambda: deployment.outcomes("users").total() == 100, timeout_seconds=60, what="users are applied"
        )
        assert _is_healthy(deployment, bridge)
    _wait_for_reads(deployment, places, {})
    with _denied(kafka, ResourceType.GROUP, deployment.installation.group, AclOperation.ALL):
        _wait_for_reads(deployment, frozenset(), dict.fromkeys(places, ProblemKind.NOT_AUTHORIZED))
        assert _is_healthy(deployment, bridge)
        refused = deployment.run.start_bridge(name="second")
        deployment.wait_until(
            lambda: refused.exit_code == 2, timeout_seconds=60, what="a bridge that starts is refused"
        )
        assert "Kafka refuses the consumer group" in refused.log.read_text()
    _wait_for_reads(deployment, places, {})
    assert bridge.exit_code is None


def _is_healthy(deployment: Deployment, bridge: RunningProcess) -> bool:
    return is_healthy(deployment.run.folder / f"{bridge.name}.alive", time.time())


@contextmanager
def _denied(kafka: KafkaCluster, kind: ResourceType, name: str, operation: AclOperation) -> Iterator[None]:
    right = Right(build_admin(kafka), kind, name, operation)
    try:
        yield
    finally:
        right.give_back()


def _leaders(deployment: Deployment, kafka: KafkaCluster) -> dict[Place, int]:
    """Returns the leader of each partition of the topics that the bridge reads."""
    topics = sorted(deployment.registry.topics)
    admin = build_admin(kafka)
    described = admin.describe_topics(TopicCollection(topics))
    return {
        (topic, found.id): found.leader.id
        for topic in topics
        for found in described[topic].result().partitions
    }


def _wait_for_reads(deployment: Deployment, read: Set[Place], problems: dict[Place, ProblemKind]) -> None:
    """Waits until bridges read exactly the partitions in `read` and report exactly these problems."""

    def as_wanted() -> bool:
        rows: dict[Place, PartitionRead] = {
            (row.topic, row.partition): row for row in read_partition_reads(deployment.session)
        }
        fresh = {place for place, row in rows.items() if row.unread_seconds is None and row.problem is None}
        found = {place: row.problem for place, row in rows.items() if row.problem is not None}
        return fresh == read and found == problems

    deployment.wait_until(as_wanted, timeout_seconds=150, what=f"reads {read}, problems {problems}")
