"""Committed outgoing events are sent, even if relays are killed, or Kafka is down or refuses records."""

import time
from collections.abc import Iterator
from itertools import islice
from uuid import UUID

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from sqlalchemy import Engine, create_engine

from examples.shop.generate import generate
from sluice.db.admin.totals import read_outgoing
from sluice.stack import Stack
from sluice.tasks.api import Emit
from sluice.tasks.outbox.emit import emit
from sluice.testing.servers.deployment import Deployment
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle
from tests.waiting import wait_until

ORDERS = 1_500
TOPIC = "order-events"


def start_flow(deployment: Deployment) -> None:
    """Starts a bridge and a worker, so that orders are applied and their outgoing events wait."""
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues("order"))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = create_engine(database_url)
    yield made
    made.dispose()


@pytest.mark.parametrize(
    "point", ["relay.claimed:2", "relay.handed:150", "relay.acknowledged:2", "relay.deleted:2"]
)
def test_a_relay_killed_at_any_point_loses_no_event(make_deployment: MakeDeployment, point: str) -> None:
    deployment = make_deployment()
    start_flow(deployment)
    doomed = deployment.run.start_relay(faults=f"{point}:kill")
    deployment.run.start_beat()
    orders = generate("orders", count=ORDERS, seed=1)
    produced = 0

    def is_killed() -> bool:
        nonlocal produced
        # Produces the next few orders when the outgoing events of the last ones are sent. Otherwise, the
        # relay might send all of them as one page.
        if sum(deployment.outcomes().values()) >= produced and not read_outgoing(deployment.session):
            produced += deployment.produce(islice(orders, 50))
        return doomed.exit_code == -9

    deployment.wait_until(is_killed, timeout_seconds=60, what=f"killed at {point}")
    deployment.produce(orders)
    deployment.run.start_relay()
    deployment.wait_settled()
    deployment.wait_sent()
    assert len(deployment.sent()) == ORDERS
    assert_equals_the_oracle(deployment)


@pytest.mark.matrix
def test_three_relays_and_two_beats_send_every_event(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    start_flow(deployment)
    for number in (1, 2, 3):
        deployment.run.start_relay(name=f"relay-{number}")
    beats = [deployment.run.start_beat(name=f"beat-{number}") for number in (1, 2)]
    deployment.produce(generate("orders", count=ORDERS, seed=2))
    deployment.wait_settled()
    deployment.wait_sent()
    assert len(deployment.sent()) == ORDERS
    assert_equals_the_oracle(deployment)
    leaders = [beat for beat in beats if "this beat leads" in beat.log.read_text()]
    assert len(leaders) == 1, "exactly one beat must lead"


def test_a_beat_takes_over_from_a_killed_beat(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    first = deployment.run.start_beat(name="first")
    wait_until(
        lambda: "this beat leads" in first.log.read_text(), timeout_seconds=30, what="the first beat leads"
    )
    second = deployment.run.start_beat(name="second")
    wait_until(
        lambda: "Starting" in second.log.read_text(), timeout_seconds=30, what="the second beat starts"
    )
    assert "this beat leads" not in second.log.read_text()
    first.kill()
    wait_until(
        lambda: "this beat leads" in second.log.read_text(), timeout_seconds=10, what="the second beat leads"
    )


def test_without_a_wakeup_events_are_sent_when_beat_starts_the_relay(
    make_deployment: MakeDeployment, engine: Engine
) -> None:
    deployment = make_deployment()
    deployment.run.start_relay()
    deployment.run.start_beat()
    with engine.begin() as connection:
        ids = emit(connection, [Emit(TOPIC, f"k{n}", "order.created", n) for n in range(100)])
    deployment.wait_sent()
    assert sorted(event_id for _, _, event_id in deployment.sent()) == sorted(ids)


def test_without_beat_events_are_sent_after_a_wakeup(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    start_flow(deployment)
    deployment.run.start_relay()
    deployment.produce(generate("orders", count=100, seed=3))
    deployment.wait_settled()
    deployment.wait_sent()
    assert len(deployment.sent()) == 100


@pytest.mark.own("kafka")
@pytest.mark.parametrize("seconds", [0, pytest.param(60, marks=pytest.mark.soak)])
def test_outgoing_events_wait_while_kafka_is_down(
    make_deployment: MakeDeployment, engine: Engine, own_stack: Stack, seconds: float
) -> None:
    deployment = make_deployment()
    relay = deployment.run.start_relay()
    deployment.run.start_beat()
    wait_until(lambda: "ready." in relay.log.read_text(), timeout_seconds=60, what="the relay is ready")
    own_stack.stop("kafka")
    sent: list[tuple[str | None, UUID]] = []
    for first in range(0, 500, 50):
        with engine.begin() as connection:
            events = [Emit(TOPIC, f"k{n % 40}", "order.created", n) for n in range(first, first + 50)]
            sent += zip(
                (f"k{n % 40}" for n in range(first, first + 50)), emit(connection, events), strict=True
            )
    wait_until(
        lambda: "outgoing events held back" in relay.log.read_text(),
        timeout_seconds=180,
        what="the relay logs the outage",
    )
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, timeout_seconds=seconds + 1, what="the outage ends")
    assert len(read_outgoing(deployment.session)) == 500
    own_stack.start("kafka")
    deployment.wait_sent(timeout_seconds=120)
    found = deployment.sent()
    for key in {key for key, _ in sent}:
        wanted = [event_id for of, event_id in sent if of == key]
        assert [event_id for _, of, event_id in found if of == key] == wanted, key
    assert relay.exit_code is None


def test_a_refused_record_holds_back_only_its_own_key(
    make_deployment: MakeDeployment, engine: Engine
) -> None:
    deployment = make_deployment()
    servers = deployment.urls.kafka_bootstrap_servers
    topic = f"small{deployment.topic_suffix}"
    deployment.registry.outgoing_topics.add(topic)
    admin = KafkaAdminClient(bootstrap_servers=servers)
    shape = {"num_partitions": 2, "replication_factor": 1, "configs": {"max.message.bytes": "2000"}}
    admin.create_topics({topic: shape}, wait_for_metadata=True)
    # The refused record is the first record of the page that contains all records.
    events = [Emit(topic, "held", "x", "y" * 5_000), Emit(topic, "held", "x", "behind it")]
    events += [Emit(topic, f"k{n}", "x", n) for n in range(300)]
    with engine.begin() as connection:
        ids = emit(connection, events)
    relay = deployment.run.start_relay()
    deployment.run.start_beat()
    deployment.wait_until(
        lambda: len(read_outgoing(deployment.session)) == 2,
        timeout_seconds=60,
        what="all other events are sent",
    )
    assert [event_id for _, _, event_id in read_outgoing(deployment.session)] == ids[:2]
    wait_until(
        lambda: "refused permanently" in relay.log.read_text(),
        timeout_seconds=10,
        what="the refusal is logged",
    )
    with engine.begin() as connection:
        refused = connection.exec_driver_sql("SELECT topic, key FROM sluice.outbox_refusals").all()
    assert [tuple(row) for row in refused] == [(topic, "held")]
    # The operator raises the limit and deletes the refusal. The relay then sends the record again.
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": "100000"})])
    admin.close()
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM sluice.outbox_refusals")
    deployment.wait_sent()
    assert [event_id for _, key, event_id in deployment.sent() if key == "held"] == ids[:2]
