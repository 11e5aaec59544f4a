"""`accept`, `reshard` and `pause` on real services lose and repeat no event. Entities keep their order."""

import itertools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from subprocess import CalledProcessError
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from examples.shop import tables
from examples.shop.generate import OutgoingRecord, generate
from sluice.db.admin.totals import read_outgoing, read_positions
from sluice.db.delivery.switches import read_paused_topics
from sluice.stack.patience import patient
from sluice.tasks.events.routing import queue_name, shard_of
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from sluice.testing.servers.oracle import differences
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle

EVENTS = 500
PARTITIONS = 4
POISONED = "product-3"
LOAD_RECORDS = 20
LOAD_EVERY_SECONDS = 0.05


def test_a_recreated_topic_is_read_from_its_beginning_after_accept(
    make_deployment: MakeDeployment,
) -> None:
    deployment, topic = _with_applied_payments(make_deployment)
    with _admin(deployment) as admin:
        admin.delete_topics([topic])
        deployment.wait_until(
            lambda: topic not in admin.list_topics(), timeout_seconds=30, what="the topic is deleted"
        )
        with pytest.raises(CalledProcessError) as refused:
            _accept(deployment, topic, "--yes")
        assert f"Kafka has no topic {topic}" in refused.value.stderr
        admin.create_topics({topic: {"num_partitions": PARTITIONS - 1, "replication_factor": 1}})
    # Closes the producer, which would wait for the partition that no longer exists.
    deployment.close()
    _assert_loud_stop(deployment)
    again = list(generate("payments", count=100, seed=1))
    deployment.produce([*_renamed(generate("payments", count=EVENTS, seed=2)), *again])
    tried = _accept(deployment, topic, "--dry-run")
    assert [part["after"] for part in tried["partitions"]] == [0, 0, 0, None]
    before = read_positions(deployment.session)
    assert len(before) == PARTITIONS * len(deployment.registry.topics)
    done = _accept(deployment, topic, "--yes")
    assert done["partitions"] == tried["partitions"]
    assert done["topic_id"] != done["topic_id_before"]
    deployment.run.start_bridge()
    deployment.wait_settled()
    # The events of the old topic are sent again with their old event ids.
    assert dict(deployment.outcomes("payments")) == {"applied": 2 * EVENTS, "duplicate": len(again)}
    _assert_new_rows_equal_the_oracle(deployment)


@pytest.mark.matrix
def test_after_accept_a_topic_continues_behind_records_that_kafka_has_deleted(
    make_deployment: MakeDeployment,
) -> None:
    deployment, topic = _with_applied_payments(make_deployment)
    before = read_positions(deployment.session)
    deployment.produce(_renamed(generate("payments", count=EVENTS, seed=2)))
    with _admin(deployment) as admin:
        admin.delete_records({TopicPartition(topic, 0): before[topic, 0] + 10})
    _assert_loud_stop(deployment)
    done = _accept(deployment, topic, "--yes")
    assert [part["lost"] for part in done["partitions"]] == [10, 0, 0, 0]
    again = sum(before[topic, number] for number in range(1, PARTITIONS))
    assert [part["again"] for part in done["partitions"]] == [0, *(before[topic, n] for n in (1, 2, 3))]
    assert again > 0
    deployment.run.start_bridge()
    deployment.wait_settled()
    assert dict(deployment.outcomes("payments")) == {"applied": 2 * EVENTS - 10}, (
        "a record was counted two times"
    )
    _assert_new_rows_equal_the_oracle(deployment)


@pytest.mark.matrix
def test_resharding_under_load_loses_nothing_and_keeps_the_order(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    deployment.run.start_bridge()
    deployment.run.start_worker(name="worker-first")
    events = generate("stock", count=100_000, seed=5, keys=40)
    deployment.produce(itertools.islice(events, 400))
    deployment.produce(
        [OutgoingRecord("stock-updates", POISONED, {"event_id": "x", "type": "stock.vanished"})]
    )
    with _load(deployment, events):
        deployment.wait_until(
            lambda: deployment.outcomes()["waiting"] > 5 and len(read_outgoing(deployment.session)) > 5,
            timeout_seconds=60,
            what="an entity is parked, and outgoing events wait because no relay runs",
        )
        with ThreadPoolExecutor() as pool:
            resharding = pool.submit(_reshard, deployment, 16)
            deployment.wait_until(
                lambda: bool(read_paused_topics(deployment.session)),
                timeout_seconds=30,
                what="the topic is paused",
            )
            deployment.run.start_relay()
            deployment.run.start_beat()
            done = resharding.result(timeout=patient(120))
        assert done["new_queues"] == [queue_name("stock", shard) for shard in range(4, 16)]
        assert not read_paused_topics(deployment.session)
        assert _parked(deployment) == [(POISONED, queue_name("stock", shard_of(POISONED.encode(), 16)))]
        applied = deployment.outcomes()["applied"]
        deployment.run.start_worker(name="worker-new")
        deployment.wait_until(
            lambda: (
                deployment.outcomes()["applied"] > applied + 400 and _queues_with(deployment, epoch=2) >= 12
            ),
            timeout_seconds=60,
            what="the events of the new queues are applied",
        )
        done = _reshard(deployment, 4)
        assert done["unused_queues"] == [queue_name("stock", shard) for shard in range(4, 16)]
        deployment.wait_until(
            lambda: _queues_with(deployment, epoch=3) == 4,
            timeout_seconds=60,
            what="the old queues apply events",
        )
    deployment.wait_settled()
    deployment.wait_sent()
    assert deployment.outcomes()["waiting"] > 5
    assert_equals_the_oracle(deployment)


@pytest.mark.own("postgres")
def test_a_paused_topic_is_not_applied_while_other_topics_are(make_deployment: MakeDeployment) -> None:
    deployment, topic = _with_applied_payments(make_deployment)
    deployment.run.start_worker(deployment.queues("balance"), name="worker-balance")
    bridge = deployment.run.start_bridge()
    deployment.run.run_sluice("pause", "--topic", topic, "--reason", "a test")
    _wait_logged(deployment, bridge, "topic paused by an operator")
    deployment.produce(_renamed(generate("payments", count=EVENTS, seed=2)))
    deployment.produce(generate("balances", count=100, seed=1))
    # A bridge that starts during the pause must not read the paused topic either.
    assert bridge.stop() == 0
    bridge = deployment.run.start_bridge()
    deployment.produce(generate("balances", count=100, seed=2))
    deployment.wait_until(
        lambda: sum(deployment.outcomes("balances").values()) == 200,
        timeout_seconds=60,
        what="the events of the other topic are applied",
    )
    assert dict(deployment.outcomes("payments")) == {"applied": EVENTS}
    assert json.loads(deployment.run.run_sluice("doctor", "--json"))["findings"]
    deployment.run.run_sluice("resume", "--topic", topic, "--reason", "a test")
    deployment.wait_settled()
    assert "topic resumed" in bridge.tail(100)
    assert_equals_the_oracle(deployment)


def _with_applied_payments(make_deployment: MakeDeployment) -> tuple[Deployment, str]:
    """Returns a deployment with applied payments and a stopped bridge, and the name of the topic."""
    deployment = make_deployment(partitions=PARTITIONS)
    bridge = deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues("payment"))
    deployment.produce(generate("payments", count=EVENTS, seed=1))
    deployment.wait_settled()
    assert bridge.stop() == 0
    return deployment, f"payments{deployment.topic_suffix}"


def _renamed(records: Iterator[OutgoingRecord]) -> list[OutgoingRecord]:
    """Returns the records with the keys of other entities."""
    return [record._replace(key=f"new-{record.key}") for record in records]


def _assert_loud_stop(deployment: Deployment) -> None:
    bridge = deployment.run.start_bridge()
    deployment.wait_until(
        lambda: "partition is not read" in bridge.log.read_text(), timeout_seconds=60, what="the topic stops"
    )
    assert bridge.stop() == 0


def _accept(deployment: Deployment, topic: str, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        deployment.run.run_sluice("accept", topic, "--reason", "a test", "--json", *options)
    )
    return found


def _reshard(deployment: Deployment, shards: int) -> dict[str, Any]:
    words = ("reshard", "stock", str(shards), "--reason", "a test", "--yes", "--json")
    found: dict[str, Any] = json.loads(deployment.run.run_sluice(*words))
    return found


def _assert_new_rows_equal_the_oracle(deployment: Deployment) -> None:
    """Compares the new rows with the oracle, and only counts the old rows.

    The log no longer contains all events of the old rows, so the oracle cannot compute them.
    """
    complaints = differences(deployment.session, deployment.expectation(), [tables.transactions])
    assert not [line for line in complaints if line.startswith("transactions new-")]
    found = deployment.rows(tables.transactions)
    assert sum(not key.startswith("new-") for key in found) == EVENTS


def _parked(deployment: Deployment) -> list[tuple[Any, ...]]:
    return _query(deployment, "SELECT key, queue FROM sluice.parked_entities ORDER BY key")


def _queues_with(deployment: Deployment, *, epoch: int) -> int:
    query = f"SELECT count(DISTINCT queue) FROM sluice.lane_offsets WHERE epoch = {epoch} AND applied > 0"
    return int(_query(deployment, query)[0][0])


def _query(deployment: Deployment, query: str) -> list[tuple[Any, ...]]:
    with deployment.session.connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def _wait_logged(deployment: Deployment, process: RunningProcess, words: str) -> None:
    deployment.wait_until(lambda: words in process.tail(100), timeout_seconds=30, what=f"{words!r} is logged")


@contextmanager
def _admin(deployment: Deployment) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=deployment.urls.kafka_bootstrap_servers)
    try:
        yield admin
    finally:
        admin.close()


@contextmanager
def _load(deployment: Deployment, events: Iterator[OutgoingRecord]) -> Iterator[None]:
    """Produces events until the block ends. Some events are produced twice."""
    stop = threading.Event()

    def produce() -> None:
        while not stop.wait(LOAD_EVERY_SECONDS):
            records = list(itertools.islice(events, LOAD_RECORDS))
            deployment.produce([*records, records[-1]])

    producing = threading.Thread(target=produce)
    producing.start()
    try:
        yield
    finally:
        stop.set()
        producing.join()
