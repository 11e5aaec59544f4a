"""What the bridge relies on in a Kafka client, whichever it is: on a real broker."""

import itertools
import os
from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from bridge.confluent_consumer import ConfluentConsumer
from bridge.consumer import MAX_POLL_RECORDS, Consumer
from bridge.kafka_python_consumer import KafkaPythonConsumer
from db.progress import Place
from ops.stack import Stack
from tasks.wire import Record
from tests.waiting import wait_until

POLL_SECONDS = 0.05
MANY = 3 * MAX_POLL_RECORDS  # more than one poll returns of what one fetch brought
_numbers = itertools.count(1)


@pytest.fixture
def topic(kafka: Stack) -> str:
    """Two partitions, empty."""
    name = f"consumed-{os.getpid()}-{next(_numbers)}"
    admin = KafkaAdminClient(bootstrap_servers=kafka.kafka_bootstrap_servers())
    admin.create_topics({name: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)
    admin.close()
    return name


@pytest.fixture(params=[KafkaPythonConsumer, ConfluentConsumer])
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
