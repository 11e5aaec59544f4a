"""The whole pipeline with each Kafka client of the bridge. Processes start as new interpreters."""

from contextlib import closing

import pytest

from sluice.kafka_io.confluent_consumer import ConfluentConsumer
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import WHOLE
from sluice.stack import Stack
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle

pytestmark = [pytest.mark.matrix, pytest.mark.unforked]

CLIENTS = ("confluent", "kafka-python")
EVENTS = 2_000


@pytest.mark.parametrize("client", CLIENTS)
def test_events_are_applied_and_emitted(make_deployment: MakeDeployment, client: str) -> None:
    deployment = make_deployment(SLUICE_KAFKA_CLIENT=client)
    deployment.run.start_bridge()
    deployment.run.start_worker()
    deployment.run.start_relay()
    deployment.run.start_beat()
    deployment.produce(mixed_events(EVENTS, seed=1))
    deployment.wait_settled()
    deployment.wait_sent()
    assert_equals_the_oracle(deployment)


@pytest.mark.own("kafka")
@pytest.mark.parametrize("client", CLIENTS)
def test_a_bridge_continues_after_kafka_was_killed(
    make_deployment: MakeDeployment, own_stack: Stack, client: str
) -> None:
    deployment = make_deployment(SLUICE_KAFKA_CLIENT=client)
    bridge = deployment.run.start_bridge()
    deployment.run.start_worker()
    deployment.produce(mixed_events(EVENTS, seed=1))
    deployment.wait_settled()
    deployment.close()
    own_stack.stop("kafka", signal="kill")
    own_stack.start("kafka")
    deployment.produce(mixed_events(EVENTS, seed=2))
    deployment.wait_settled(timeout_seconds=120)
    assert_equals_the_oracle(deployment)
    assert bridge.exit_code is None


@pytest.mark.parametrize(("first", "second"), [CLIENTS, CLIENTS[::-1]])
def test_a_bridge_of_one_client_takes_over_from_the_other(
    make_deployment: MakeDeployment, first: str, second: str
) -> None:
    deployment = make_deployment()
    deployment.run.start_worker()
    for seed, client in enumerate((first, second)):
        deployment.run.environment = {"SLUICE_KAFKA_CLIENT": client}
        bridge = deployment.run.start_bridge(name=client)
        deployment.produce(mixed_events(EVENTS, seed=seed))
        deployment.wait_settled()
        bridge.kill()
    assert_equals_the_oracle(deployment)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_bridge_continues_after_its_member_was_fenced(make_deployment: MakeDeployment, client: str) -> None:
    """A second member joins with the bridge's instance id, so the broker fences the bridge's member.

    The broker may also fence a member after a restart of the broker.
    """
    deployment = make_deployment(SLUICE_KAFKA_CLIENT=client)
    bridge = deployment.run.start_bridge()
    deployment.run.start_worker()
    deployment.produce(mixed_events(EVENTS, seed=1))
    deployment.wait_settled()
    group = deployment.installation.group
    namesake = ConfluentConsumer(
        KafkaAccess(deployment.urls.kafka_bootstrap_servers),
        group=group,
        instance=f"{group}-bridge-0",
        topics=sorted(deployment.registry.topics),
        share=WHOLE,
    )
    with closing(namesake):
        deployment.wait_until(
            lambda: namesake.poll(0.05) is not None and "consumer replaced" in bridge.log.read_text(),
            timeout_seconds=60,
            what="the bridge replaces its consumer",
        )
    deployment.produce(mixed_events(EVENTS, seed=2))
    deployment.wait_settled(timeout_seconds=120)
    assert_equals_the_oracle(deployment)
    assert bridge.exit_code is None
