"""The pipeline and the commands over TLS and a login, with the rights that Sluice needs and no more."""

import json
import os
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AclOperation, ResourceType  # type: ignore[attr-defined]

from sluice.testing.servers.deployment import Deployment
from tests.harness import stacks
from tests.harness.secure_kafka import SecureStack, denied, secure_stack
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import SteadyLoad, assert_equals_the_oracle

pytestmark = [pytest.mark.matrix, pytest.mark.unforked]

CLIENTS = ("confluent", "kafka-python")
EVENTS = 1_000
RATE = 60
SETTLE_SECONDS = 3


@pytest.fixture(scope="module")
def kafka() -> Iterator[SecureStack]:
    """Yields a secure broker, which replaces the broker of the test run."""
    with secure_stack(stacks.FOLDER / f"{os.getpid()}-secure-pipeline") as stack:
        yield stack


@pytest.mark.parametrize("client", CLIENTS)
def test_processes_and_commands_work_with_the_least_rights(
    make_deployment: MakeDeployment, client: str
) -> None:
    deployment = make_deployment(SLUICE_KAFKA_CLIENT=client)
    deployment.run.start_bridge()
    deployment.run.start_worker()
    deployment.run.start_relay()
    deployment.run.start_beat()
    deployment.produce(mixed_events(EVENTS, seed=1))
    deployment.wait_settled()
    deployment.wait_sent()
    assert_equals_the_oracle(deployment)
    users = f"users{deployment.topic_suffix}"
    event = {"event_id": "u-1", "type": "user.changed", "version": 1_000_000, "data": {"name": "Ann"}}
    line = json.dumps({"key": "ann", "topic": users, "value": event}).encode()
    sent = deployment.run.sluice("send", "-", "--json", given=line)
    assert sent.returncode == 0, sent.stderr
    deployment.wait_settled()
    for words in (("init",), ("verify",), ("status",), ("trace", f"{users}:0:0"), ("doctor", "--json")):
        done = deployment.run.sluice(*words)
        assert b"Kafka" not in done.stderr, (words, done.stderr)
        assert b"UTHORIZATION" not in done.stdout + done.stderr, (words, done.stdout, done.stderr)
        assert done.returncode in ((0,) if words[0] != "doctor" else (0, 1)), (
            words,
            done.stdout,
            done.stderr,
        )
        assert b"no right to" not in done.stdout, done.stdout


@pytest.mark.parametrize("client", CLIENTS)
def test_a_right_taken_away_stops_its_topic_alone_until_it_is_given_back(
    make_deployment: MakeDeployment, kafka: SecureStack, client: str
) -> None:
    deployment = make_deployment(SLUICE_KAFKA_CLIENT=client)
    bridge = deployment.run.start_bridge()
    deployment.run.start_worker()
    deployment.produce(mixed_events(EVENTS, seed=1))
    deployment.wait_settled()
    name = f"payments{deployment.topic_suffix}"
    before = deployment.outcomes("payments").total()
    with SteadyLoad(deployment, lambda count, first: mixed_events(count, seed=first + 2), rate=RATE) as load:
        load.wait_more(SETTLE_SECONDS)
        with denied(kafka.kafka_admin_access(), ResourceType.TOPIC, name, AclOperation.READ):
            deployment.wait_until(
                lambda: "grant the bridge's user Read and Describe" in bridge.log.read_text(),
                timeout_seconds=120,
                what="the missing right is logged",
            )
            for topic in sorted(deployment.registry.topics):
                if topic != name:
                    plain = topic.removesuffix(deployment.topic_suffix)
                    wait_more_outcomes(deployment, plain)
        load.wait_more(SETTLE_SECONDS)
    deployment.wait_settled(timeout_seconds=180)
    assert deployment.outcomes("payments").total() > before
    assert_equals_the_oracle(deployment)
    assert bridge.exit_code is None


def wait_more_outcomes(deployment: Deployment, topic: str) -> None:
    """Waits until further events of the topic have an outcome."""
    before = deployment.outcomes(topic).total()
    deployment.wait_until(
        lambda: deployment.outcomes(topic).total() > before, timeout_seconds=120, what=f"{topic} is read"
    )


def test_a_bridge_with_a_wrong_password_is_refused(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    deployment.run.environment = {"SLUICE_KAFKA_PASSWORD": "wrong"}
    bridge = deployment.run.start_bridge()
    deployment.wait_until(lambda: bridge.exit_code == 2, timeout_seconds=60, what="the bridge is refused")
    assert "SLUICE_KAFKA_USERNAME, SLUICE_KAFKA_PASSWORD: " in bridge.log.read_text()
    for command in (("verify",), ("status",), ("send", "users", "--key", "k", "--type", "t", "--data", "{}")):
        done = deployment.run.sluice(*command)
        assert done.returncode != 0, command
