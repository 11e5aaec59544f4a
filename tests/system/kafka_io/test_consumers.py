"""Behaviour of Kafka clients on a real broker. The bridge relies on this behaviour."""

import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from sluice.kafka_io.config import MAX_POLL_RECORDS, build_kafka_python_admin
from sluice.kafka_io.consumer import Consumer, ConsumerBroken
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import Record
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import WHOLE
from sluice.runtime.place import Place
from sluice.stack import Stack
from tests.system.kafka_io.consuming import CLIENTS, POLL_SECONDS, AnyConsumer, poll_until, produce
from tests.waiting import wait_until

GONE_SECONDS = 3.0  # This is longer than a client delays a fetch after an error.
ROUNDS = 5  # The race in the test of a topic recreated while paused does not occur in every round.
MANY = 3 * MAX_POLL_RECORDS  # One fetch of the client returns more records than one poll.


@pytest.fixture(params=CLIENTS)
def consumer(request: pytest.FixtureRequest, kafka: Stack, topic: str) -> Iterator[Consumer]:
    """Yields a group member that has both partitions and is positioned at their beginnings."""
    made: Consumer = request.param(
        kafka.kafka_access(), group=f"group-{topic}", instance=None, topics=[topic], share=WHOLE
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


def test_records_that_were_fetched_before_a_pause_are_returned_after_resume(
    consumer: Consumer, producer: KafkaProducer, topic: str
) -> None:
    first, second = (topic, 0), (topic, 1)
    produce(producer, topic, 0, MANY)
    got: dict[Place, list[Record]] = {}
    poll_until(consumer, got, first, 1)
    consumer.pause_exactly([first])
    # The client keeps the fetched records of the first partition, and reads all records of the second
    # partition.
    produce(producer, topic, 1, 10)
    poll_until(consumer, got, second, 10)
    came = len(got[first])
    assert came < MANY, "one poll returned all records, so this test proves nothing"
    consumer.pause_exactly([])
    poll_until(consumer, got, first, MANY)
    assert [record.offset for record in got[first]] == list(range(MANY))


def test_a_seek_drops_the_records_fetched_before(
    consumer: Consumer, producer: KafkaProducer, topic: str
) -> None:
    place = (topic, 0)
    produce(producer, topic, 0, MANY)
    got: dict[Place, list[Record]] = {}
    poll_until(consumer, got, place, 1)
    consumer.seek(place, 5)
    again: dict[Place, list[Record]] = {}
    poll_until(consumer, again, place, MANY - 5)
    assert [record.offset for record in again[place]] == list(range(5, MANY))


def test_a_seek_while_paused_takes_effect_after_resume(
    consumer: Consumer, producer: KafkaProducer, topic: str
) -> None:
    place = (topic, 0)
    produce(producer, topic, 0, MANY)
    got: dict[Place, list[Record]] = {}
    poll_until(consumer, got, place, 1)
    consumer.pause_exactly([place])
    assert consumer.poll(POLL_SECONDS).get(place, []) == []
    consumer.seek(place, 7)
    consumer.pause_exactly([])
    again: dict[Place, list[Record]] = {}
    poll_until(consumer, again, place, MANY - 7)
    assert [record.offset for record in again[place]] == list(range(7, MANY))


def test_the_position_is_the_log_end_when_all_records_are_polled(
    consumer: Consumer, producer: KafkaProducer, topic: str
) -> None:
    place = (topic, 0)
    produce(producer, topic, 0, 10)
    got: dict[Place, list[Record]] = {}
    poll_until(consumer, got, place, 10)

    def at_end() -> bool:
        assert not consumer.poll(POLL_SECONDS)
        return consumer.position(place) == 10

    wait_until(at_end, timeout_seconds=10, what="the position is the end of the log")
    ranges = consumer.log_ranges([place])
    assert (ranges[place].start, ranges[place].end) == (0, 10)
    assert consumer.topics()[topic].partitions == 2


def test_a_position_beyond_the_log_is_reported_as_a_change(
    consumer: Consumer, producer: KafkaProducer, topic: str
) -> None:
    place = (topic, 0)
    produce(producer, topic, 0, 10)
    consumer.seek(place, 1_000)

    def changed() -> bool:
        assert not consumer.poll(POLL_SECONDS)
        return place in consumer.take_changes()

    wait_until(changed, timeout_seconds=30, what="the lost position is reported")


def test_a_missing_partition_has_no_log_range(consumer: Consumer, topic: str) -> None:
    assert consumer.log_ranges([(topic, 0), (topic, 2)]) == {(topic, 0): LogRange(0, 0)}
    assert consumer.log_ranges([(topic, 2)]) == {}
    assert consumer.log_ranges([]) == {}


def _recreate(kafka: Stack, producer: KafkaProducer, topic: str, missed: threading.Event | None) -> None:
    """Recreates the topic with 100 records. Earlier positions are therefore also valid in the new topic.

    With `missed`, waits for this event between deletion and creation, at most for GONE_SECONDS.
    """
    with closing(build_kafka_python_admin(kafka.kafka_access())) as admin:
        old = _topic_id(admin, topic)
        admin.delete_topics([topic])
        if missed is not None:
            # Some clients do not detect that the topic is missing, so the wait has a limit.
            missed.wait(GONE_SECONDS)
        admin.create_topics({topic: {"num_partitions": 2, "replication_factor": 1}})
        # The controller answers before the broker has the new topic. Until then, records go to the old topic.
        wait_until(
            lambda: _topic_id(admin, topic) not in (None, old),
            timeout_seconds=30,
            what="the broker has the new topic",
        )
    produce(producer, topic, 0, 100)


def _topic_id(admin: KafkaAdminClient, topic: str) -> str | None:
    (found,) = admin.describe_topics([topic])
    return None if found["error_code"] else str(found["topic_id"])


def _is_reported(consumer: Consumer, place: Place, old: str, missed: threading.Event | None = None) -> bool:
    """Polls, and returns True if the consumer reports the new topic.

    Fails the test if a poll returns records while the consumer still reports the old id: the bridge would
    take them for records of the old topic.
    """
    polled = consumer.poll(POLL_SECONDS)
    if place in consumer.take_truncated():
        # The client may report lost records instead of a new id. The bridge then stops the partition, too.
        return True
    facts = consumer.topics().get(place[0])
    if facts is None and missed is not None:
        missed.set()
    known = None if facts is None else facts.topic_id
    assert not (known == old and place in polled), "new records were returned under the old topic id"
    return known not in (None, old)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_recreated_topic_is_reported_before_its_records(
    consumer: Consumer, producer: KafkaProducer, kafka: Stack, topic: str, at_once: bool
) -> None:
    place = (topic, 0)
    produce(producer, topic, 0, 10)
    poll_until(consumer, {}, place, 10)
    old = consumer.topics()[topic].topic_id
    missed = None if at_once else threading.Event()
    with ThreadPoolExecutor() as pool:
        recreating = pool.submit(_recreate, kafka, producer, topic, missed)
        wait_until(
            lambda: _is_reported(consumer, place, old, missed),
            timeout_seconds=30,
            what="the topic has its new id",
        )
        recreating.result()


def test_a_topic_recreated_while_paused_is_reported_before_its_records(
    consumer: Consumer, producer: KafkaProducer, kafka: Stack, topic: str
) -> None:
    """The client fetches only the partition that is not paused.

    This fetch fails, and then the client reads the new topic.
    """
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
            functools.partial(_is_reported, consumer, place, old),
            timeout_seconds=30,
            what="the topic has its new id",
        )


def test_members_of_both_clients_share_a_group(kafka: Stack, topic: str) -> None:
    """An operator can therefore change the client of one bridge after the other."""
    members: list[Consumer] = [
        client(
            kafka.kafka_access(),
            group=f"group-{topic}",
            instance=f"m-{n}",
            topics=[topic],
            share=WHOLE,
        )
        for n, client in enumerate(CLIENTS)
    ]
    first, second = members

    def shared() -> bool:
        for member in members:
            member.poll(POLL_SECONDS)
        return sorted(map(len, (first.assignment(), second.assignment()))) == [1, 1]

    with closing(first), closing(second):
        wait_until(shared, timeout_seconds=30, what="each member has a partition")
        assert first.assignment() | second.assignment() == {(topic, 0), (topic, 1)}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_consumer_without_a_broker_raises_an_error(client: type[AnyConsumer]) -> None:
    with pytest.raises(ConsumerBroken):
        client(KafkaAccess("127.0.0.1:1"), group="nobody", instance=None, topics=["nothing"], share=WHOLE)
