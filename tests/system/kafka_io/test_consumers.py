"""What the bridge relies on in a Kafka client, whichever it is: on a real broker."""

import functools
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeAlias

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from sluice.kafka_io.config import MAX_POLL_RECORDS, SESSION_TIMEOUT_MS
from sluice.kafka_io.confluent_consumer import ConfluentConsumer
from sluice.kafka_io.consumer import Consumer, ConsumerBroken, LogTruncated
from sluice.kafka_io.kafka_python_consumer import KafkaPythonConsumer
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from sluice.stack import Stack
from tests.waiting import wait_until

POLL_SECONDS = 0.05
GONE_SECONDS = 3.0  # longer than any fetch is put off after an error
ROUNDS = 5  # one does not always meet the moment
FENCED_SECONDS = (
    5 * SESSION_TIMEOUT_MS / 1000
)  # a heartbeat, three a session, reports it: room for a busy machine
MANY = 3 * MAX_POLL_RECORDS  # more than one poll returns of what one fetch brought
AnyConsumer: TypeAlias = ConfluentConsumer | KafkaPythonConsumer
CLIENTS: tuple[type[AnyConsumer], ...] = (ConfluentConsumer, KafkaPythonConsumer)
_numbers = itertools.count(1)


@pytest.fixture
def topic(kafka: Stack) -> str:
    """Two partitions, empty."""
    name = f"consumed-{os.getpid()}-{next(_numbers)}"
    with closing(KafkaAdminClient(bootstrap_servers=kafka.kafka_bootstrap_servers())) as admin:
        admin.create_topics({name: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)
    return name


@pytest.fixture(params=CLIENTS)
def consumer(request: pytest.FixtureRequest, kafka: Stack, topic: str) -> Iterator[Consumer]:
    """A member that has both partitions and stands at their beginnings."""
    made: Consumer = request.param(
        kafka.kafka_bootstrap_servers(), group=f"group-{topic}", instance=None, topics=[topic]
    )

    def joined() -> bool:
        made.poll(POLL_SECONDS)
        return made.assignment() == {(topic, 0), (topic, 1)}

    wait_until(joined, timeout_seconds=30, what="both partitions are assigned")
    for place in made.assignment():
        made.seek(place, 0)
    made.take_changes()
    yield made
    made.close()
    made.close()


@pytest.fixture
def producer(kafka: Stack) -> Iterator[KafkaProducer]:
    made = KafkaProducer(bootstrap_servers=kafka.kafka_bootstrap_servers(), acks="all", linger_ms=20)
    yield made
    made.close()


def _produce(producer: KafkaProducer, topic: str, partition: int, count: int) -> None:
    for _ in range(count):
        producer.send(topic, b"value", partition=partition)
    producer.flush()


def _poll_until(consumer: Consumer, got: dict[Place, list[Record]], place: Place, count: int) -> None:
    def enough() -> bool:
        for found, records in consumer.poll(POLL_SECONDS).items():
            got.setdefault(found, []).extend(records)
        return len(got.get(place, ())) >= count

    wait_until(enough, timeout_seconds=30, what=f"{count} records of {place}, {len(got.get(place, ()))} came")


def test_a_partition_paused_with_records_in_hand_goes_on_when_it_is_resumed(
    consumer: Consumer, producer: KafkaProducer, topic: str
) -> None:
    first, second = (topic, 0), (topic, 1)
    _produce(producer, topic, 0, MANY)
    got: dict[Place, list[Record]] = {}
    _poll_until(consumer, got, first, 1)
    consumer.pause_exactly([first])
    # The client puts away what it has of the first, and reads all that there is of the second.
    _produce(producer, topic, 1, 10)
    _poll_until(consumer, got, second, 10)
    came = len(got[first])
    assert came < MANY, "all came in one poll: this test shows nothing"
    consumer.pause_exactly([])
    _poll_until(consumer, got, first, MANY)
    assert [record.offset for record in got[first]] == list(range(MANY))


def test_a_seek_drops_what_was_fetched_before(
    consumer: Consumer, producer: KafkaProducer, topic: str
) -> None:
    place = (topic, 0)
    _produce(producer, topic, 0, MANY)
    got: dict[Place, list[Record]] = {}
    _poll_until(consumer, got, place, 1)
    consumer.seek(place, 5)
    again: dict[Place, list[Record]] = {}
    _poll_until(consumer, again, place, MANY - 5)
    assert [record.offset for record in again[place]] == list(range(5, MANY))


def test_a_seek_while_paused_counts_when_it_is_resumed(
    consumer: Consumer, producer: KafkaProducer, topic: str
) -> None:
    place = (topic, 0)
    _produce(producer, topic, 0, MANY)
    got: dict[Place, list[Record]] = {}
    _poll_until(consumer, got, place, 1)
    consumer.pause_exactly([place])
    assert consumer.poll(POLL_SECONDS).get(place, []) == []
    consumer.seek(place, 7)
    consumer.pause_exactly([])
    again: dict[Place, list[Record]] = {}
    _poll_until(consumer, again, place, MANY - 7)
    assert [record.offset for record in again[place]] == list(range(7, MANY))


def test_the_position_is_at_the_end_once_all_is_polled(
    consumer: Consumer, producer: KafkaProducer, topic: str
) -> None:
    place = (topic, 0)
    _produce(producer, topic, 0, 10)
    got: dict[Place, list[Record]] = {}
    _poll_until(consumer, got, place, 10)

    def at_end() -> bool:
        assert not consumer.poll(POLL_SECONDS)
        return consumer.position(place) == 10

    wait_until(at_end, timeout_seconds=10, what="the position is the end of the log")
    ranges = consumer.log_ranges([place])
    assert (ranges[place].start, ranges[place].end) == (0, 10)
    assert consumer.topics()[topic].partitions == 2


def test_a_position_beyond_the_log_is_a_change(
    consumer: Consumer, producer: KafkaProducer, topic: str
) -> None:
    place = (topic, 0)
    _produce(producer, topic, 0, 10)
    consumer.seek(place, 1_000)

    def changed() -> bool:
        assert not consumer.poll(POLL_SECONDS)
        return place in consumer.take_changes()

    wait_until(changed, timeout_seconds=30, what="the lost position is noted")


def test_a_partition_that_is_not_there_has_no_range(consumer: Consumer, topic: str) -> None:
    assert consumer.log_ranges([(topic, 0), (topic, 2)]) == {(topic, 0): LogRange(0, 0)}
    assert consumer.log_ranges([(topic, 2)]) == {}
    assert consumer.log_ranges([]) == {}


def _recreate(kafka: Stack, producer: KafkaProducer, topic: str, missed: threading.Event | None) -> None:
    """With so many records that positions up to 50 lie amid them. `missed` ends the time without it."""
    with closing(KafkaAdminClient(bootstrap_servers=kafka.kafka_bootstrap_servers())) as admin:
        admin.delete_topics([topic])
        if missed is not None:
            # Not every client notices while nothing is there.
            missed.wait(GONE_SECONDS)
        admin.create_topics({topic: {"num_partitions": 2, "replication_factor": 1}})
    _produce(producer, topic, 0, 100)


def _is_told(consumer: Consumer, place: Place, old: str, missed: threading.Event | None = None) -> bool:
    """Polls. Records with the old id beside them would be taken for the old topic's."""
    try:
        polled = consumer.poll(POLL_SECONDS)
    except LogTruncated:
        return True  # which stops the bridge as well
    facts = consumer.topics().get(place[0])
    if facts is None and missed is not None:
        missed.set()
    known = None if facts is None else facts.topic_id
    assert not (known == old and place in polled), "its records pass for those of the old one"
    return known not in (None, old)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_topic_created_anew_is_told_before_its_records(
    consumer: Consumer, producer: KafkaProducer, kafka: Stack, topic: str, at_once: bool
) -> None:
    place = (topic, 0)
    _produce(producer, topic, 0, 10)
    _poll_until(consumer, {}, place, 10)
    old = consumer.topics()[topic].topic_id
    missed = None if at_once else threading.Event()
    with ThreadPoolExecutor() as pool:
        recreating = pool.submit(_recreate, kafka, producer, topic, missed)
        wait_until(
            lambda: _is_told(consumer, place, old, missed),
            timeout_seconds=30,
            what="the topic has its new id",
        )
        recreating.result()


def test_a_topic_created_anew_while_paused_is_told_before_its_records(
    consumer: Consumer, producer: KafkaProducer, kafka: Stack, topic: str
) -> None:
    """No fetch of the partition fails meanwhile, but one of the other: the client goes by the new topic."""
    place = (topic, 0)
    for _ in range(ROUNDS):
        old = consumer.topics()[topic].topic_id
        consumer.seek(place, 10)
        consumer.pause_exactly([place])
        for _ in range(3):
            assert not consumer.poll(POLL_SECONDS)
        _recreate(kafka, producer, topic, None)
        consumer.pause_exactly([])
        wait_until(
            functools.partial(_is_told, consumer, place, old), timeout_seconds=30, what="the topic's new id"
        )


def test_members_of_both_clients_share_a_group(kafka: Stack, topic: str) -> None:
    """So the client of a deployment may be changed bridge by bridge."""
    members: list[Consumer] = [
        client(kafka.kafka_bootstrap_servers(), group=f"group-{topic}", instance=f"m-{n}", topics=[topic])
        for n, client in enumerate(CLIENTS)
    ]
    first, second = members

    def shared() -> bool:
        for member in members:
            member.poll(POLL_SECONDS)
        return sorted(map(len, (first.assignment(), second.assignment()))) == [1, 1]

    with closing(first), closing(second):
        wait_until(shared, timeout_seconds=30, what="each has a partition")
        assert first.assignment() | second.assignment() == {(topic, 0), (topic, 1)}


@pytest.mark.parametrize("client", CLIENTS)
def test_without_a_broker_there_is_no_consumer(client: type[AnyConsumer]) -> None:
    with pytest.raises(ConsumerBroken):
        client("127.0.0.1:1", group="nobody", instance=None, topics=["nothing"])


def _is_broken(consumer: Consumer) -> bool:
    try:
        consumer.poll(POLL_SECONDS)
    except ConsumerBroken:
        return True
    return False


@pytest.mark.parametrize("heard_by", ["heartbeat", "commit"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_member_fenced_by_its_namesake_is_broken_at_every_poll(
    kafka: Stack, producer: KafkaProducer, topic: str, client: type[AnyConsumer], heard_by: str
) -> None:
    """The client reports the fatal error once, or not at all, and then polls without records for ever."""
    places = {(topic, 0), (topic, 1)}

    def join() -> Consumer:
        return client(
            kafka.kafka_bootstrap_servers(), group=f"group-{topic}", instance="same", topics=[topic]
        )

    def has_joined(member: Consumer) -> bool:
        member.poll(POLL_SECONDS)
        return member.assignment() == places and not is_rejoining(member)

    def is_fenced() -> bool:
        if heard_by == "commit":
            fenced.commit(dict.fromkeys(places, 0))
        second.poll(POLL_SECONDS)
        return _is_broken(fenced)

    fenced = join()
    wait_until(lambda: has_joined(fenced), timeout_seconds=30, what="the first member has the partitions")
    with closing(join()) as second:
        wait_until(lambda: has_joined(second), timeout_seconds=30, what="its namesake has the partitions")
        wait_until(is_fenced, timeout_seconds=FENCED_SECONDS, what="the first member is broken")
        assert _is_broken(fenced), "the error is forgotten"
        fenced.close()
        for place in places:
            second.seek(place, 0)
        _produce(producer, topic, 0, 10)
        _poll_until(second, {}, (topic, 0), 10)


def is_rejoining(member: Consumer) -> bool:
    """Returns True if a client of kafka-python is about to send a join request: its answer is an error."""
    return isinstance(member, KafkaPythonConsumer) and member._consumer._coordinator.need_rejoin()
