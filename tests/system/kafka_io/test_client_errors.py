"""On real brokers, an error of a Kafka client affects only the topic, partition or group that it names."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from confluent_kafka.admin import AclOperation, NewTopic, ResourceType  # type: ignore[attr-defined]
from kafka import KafkaProducer

from sluice.kafka_io.consumer import Consumer
from sluice.kafka_io.kafka_errors import ClientError, ErrorAction
from sluice.kafka_io.record_types import Record
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import WHOLE
from sluice.runtime.place import Place
from tests.harness.kafka_cluster import REPLICATED, WITH_AUTHORIZER, KafkaCluster, kafka_cluster
from tests.harness.kafka_rights import Right, build_admin
from tests.system.kafka_io.consuming import CLIENTS, POLL_SECONDS, AnyConsumer, poll_until, produce
from tests.waiting import wait_until

_numbers = itertools.count(1)

Denial = Callable[[ResourceType, str, AclOperation], Right]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Yields a cluster of one broker with an authorizer."""
    with kafka_cluster(tmp_path_factory.mktemp("guarded") / "kafka", 1, WITH_AUTHORIZER) as cluster:
        yield cluster


@pytest.fixture
def admin(guarded: KafkaCluster) -> Any:
    return build_admin(guarded)


@pytest.fixture
def deny(admin: Any) -> Iterator[Denial]:
    """Yields a function that denies a right. Restores all rights afterwards."""
    denied: list[Right] = []

    def make(kind: ResourceType, name: str, operation: AclOperation) -> Right:
        denied.append(Right(admin, kind, name, operation))
        return denied[-1]

    yield make
    for right in denied:
        right.give_back()


def create_topics(admin: Any) -> tuple[str, str]:
    """Creates two topics with one partition each."""
    number = next(_numbers)
    names = (f"good-{os.getpid()}-{number}", f"bad-{os.getpid()}-{number}")
    for future in admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
        future.result()
    return names


def join(client: type[AnyConsumer], servers: str, topics: tuple[str, ...]) -> Any:
    return closing(
        client(KafkaAccess(servers), group=f"group-{topics[0]}", instance=None, topics=topics, share=WHOLE)
    )


def seek_when_assigned(consumer: Consumer, *places: Place) -> None:
    def assigned() -> bool:
        consumer.poll(POLL_SECONDS)
        return consumer.assignment().issuperset(places)

    wait_until(assigned, timeout_seconds=60, what=f"{places} are assigned")
    for place in places:
        consumer.seek(place, 0)


def wait_for_error(consumer: Consumer, is_it: Callable[[ClientError], bool], what: str) -> None:
    """Polls until the consumer reports an error for which `is_it` returns True."""

    def reported() -> bool:
        consumer.poll(POLL_SECONDS)
        return any(is_it(error) for error in consumer.take_errors())

    wait_until(reported, timeout_seconds=60, what=what)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_denied_topic_is_reported_and_the_other_topic_is_read(
    guarded: KafkaCluster, admin: Any, deny: Denial, client: type[AnyConsumer]
) -> None:
    good, bad = create_topics(admin)
    deny(ResourceType.TOPIC, bad, AclOperation.ALL)
    servers = guarded.kafka_bootstrap_servers()
    with join(client, servers, (good, bad)) as consumer, closing(_producer(servers)) as producer:
        seek_when_assigned(consumer, (good, 0))
        produce(producer, good, 0, 10)
        poll_until(consumer, {}, (good, 0), 10)
        wait_until(
            lambda: consumer.poll(POLL_SECONDS) is not None and bad in consumer.topic_errors(),
            timeout_seconds=30,
            what="the denied topic is reported",
        )
        assert consumer.topic_errors()[bad].action is ErrorAction.NOT_AUTHORIZED
        assert set(consumer.topics()) == {good}
        assert set(consumer.log_ranges([(good, 0), (bad, 0)])) == {(good, 0)}


@pytest.mark.matrix
@pytest.mark.parametrize("client", CLIENTS)
def test_a_revoked_right_stops_its_topic_and_a_restored_right_restarts_it(
    guarded: KafkaCluster, admin: Any, deny: Denial, client: type[AnyConsumer]
) -> None:
    good, bad = create_topics(admin)
    places = [(good, 0), (bad, 0)]
    servers = guarded.kafka_bootstrap_servers()
    with join(client, servers, (good, bad)) as consumer, closing(_producer(servers)) as producer:
        seek_when_assigned(consumer, *places)
        got: dict[Place, list[Record]] = {}
        for topic in (good, bad):
            produce(producer, topic, 0, 10)
            poll_until(consumer, got, (topic, 0), 10)
        right = deny(ResourceType.TOPIC, bad, AclOperation.READ)
        wait_for_error(
            consumer,
            lambda error: (error.action, error.topic) == (ErrorAction.NOT_AUTHORIZED, bad),
            "the missing right is reported",
        )
        produce(producer, good, 0, 10)
        produce(producer, bad, 0, 10)
        poll_until(consumer, got, (good, 0), 20)
        assert len(got[bad, 0]) == 10
        right.give_back()
        consumer.seek((bad, 0), 10)
        poll_until(consumer, got, (bad, 0), 20)


@pytest.mark.matrix
@pytest.mark.parametrize("client", CLIENTS)
def test_a_denied_group_is_reported_and_joined_when_it_is_allowed(
    guarded: KafkaCluster, admin: Any, deny: Denial, client: type[AnyConsumer]
) -> None:
    topics = create_topics(admin)
    right = deny(ResourceType.GROUP, f"group-{topics[0]}", AclOperation.READ)
    with join(client, guarded.kafka_bootstrap_servers(), topics) as consumer:
        wait_for_error(consumer, lambda error: error.of_group, "the group is reported as denied")
        assert not consumer.assignment()
        right.give_back()
        seek_when_assigned(consumer, *((topic, 0) for topic in topics))


@pytest.mark.matrix
@pytest.mark.parametrize("client", CLIENTS)
def test_a_group_that_is_denied_while_it_runs_is_reported(
    guarded: KafkaCluster, admin: Any, deny: Denial, client: type[AnyConsumer]
) -> None:
    topics = create_topics(admin)
    with join(client, guarded.kafka_bootstrap_servers(), topics) as consumer:
        seek_when_assigned(consumer, *((topic, 0) for topic in topics))
        deny(ResourceType.GROUP, f"group-{topics[0]}", AclOperation.READ)
        wait_for_error(consumer, lambda error: error.of_group, "the group is reported as denied")


@pytest.mark.matrix
@pytest.mark.parametrize("client", CLIENTS)
def test_a_partition_without_a_leader_is_reported_and_the_others_are_read(
    tmp_path: Path, client: type[AnyConsumer]
) -> None:
    """The only replica of a partition is on a broker that does not restart."""
    with kafka_cluster(tmp_path / "kafka", 3, REPLICATED | {"min.insync.replicas": "1"}) as cluster:
        servers = cluster.kafka_bootstrap_servers()
        kept, lone = (f"{kind}-{os.getpid()}-{next(_numbers)}" for kind in ("kept", "lone"))
        admin = build_admin(cluster)
        wanted = [
            NewTopic(kept, 1, replica_assignment=[[1, 2]]),
            NewTopic(lone, 1, replica_assignment=[[3]]),
        ]
        for future in admin.create_topics(wanted).values():
            future.result()
        with join(client, servers, (kept, lone)) as consumer, closing(_producer(servers)) as producer:
            seek_when_assigned(consumer, (kept, 0), (lone, 0))
            cluster.stop(3, SIGKILL)

            def is_known() -> bool:
                consumer.poll(POLL_SECONDS)
                return bool(consumer.topics()[lone].leaderless == {0})

            wait_until(is_known, timeout_seconds=60, what="the partition has no leader")
            produce(producer, kept, 0, 10)
            read_on(consumer, (kept, 0), 10)
        with join(client, servers, (kept, lone)) as consumer:
            assert set(consumer.log_ranges([(kept, 0), (lone, 0)])) == {(kept, 0)}
            seek_when_assigned(consumer, (kept, 0))
            read_on(consumer, (kept, 0), 10)


def read_on(consumer: Consumer, place: Place, count: int) -> None:
    """Polls until `count` records were returned.

    If the client loses its position in the partition, seeks to the next record, as a bridge does. This
    happens because a client that waits for the stopped broker has no topic metadata for a while.
    """
    came: list[Record] = []

    def enough() -> bool:
        came.extend(consumer.poll(POLL_SECONDS).get(place, []))
        if place in consumer.take_changes():
            consumer.seek(place, len(came))
        return len(came) >= count

    wait_until(enough, timeout_seconds=60, what=f"{count} records of {place}")


def _producer(servers: str) -> KafkaProducer:
    return KafkaProducer(bootstrap_servers=servers.split(","), acks="all", linger_ms=5)
