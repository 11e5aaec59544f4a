"""The topic of the bench, created anew for each measurement, and a log whose records become visible together.

Consumers must not start on a complete log, because a group's first member would drain alone for the seconds
until the others have joined. The bench must not produce the log during the drain either, because that takes
CPU. So the bench produces the log in one transaction and commits it when all processes run. Every contender
reads only committed records.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.app import TOPIC
from bench.events import BenchEvent, Encode, plain_record

PARTITIONS = 12
LOG_NOTHING = 0  # a syslog level: suppresses messages of a client about its own end
ANSWER_SECONDS = 30.0
RETRY_SECONDS = 0.1
TRANSACTION_TIMEOUT_MS = 900_000  # the maximum of the broker
MAX_QUEUED = 100_000  # records in the producer's own memory
MILLISECONDS = 1_000
POLL_EVERY = 10_000  # records between two checks of the acknowledgements


def recreate_topic(
    bootstrap_servers: str,
    topic: str = TOPIC,
    *,
    partitions: int = PARTITIONS,
    config: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Deletes the topic and creates it again. No process may consume it meanwhile."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": LOG_NOTHING})
    if topic in admin.list_topics(timeout=ANSWER_SECONDS).topics:
        admin.delete_topics([topic])[topic].result(ANSWER_SECONDS)
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            new = NewTopic(topic, partitions, 1, config=dict(config))
            admin.create_topics([new])[topic].result(ANSWER_SECONDS)
            break
        except KafkaException as error:
            # Kafka acknowledges a deletion before it is complete.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)
    while len(_partitions(admin, topic)) < partitions:
        if time.monotonic() > deadline:
            raise TimeoutError(f"topic {topic} is not usable")
        time.sleep(RETRY_SECONDS)


def is_group_settled(bootstrap_servers: str, group: str, members: int, partitions: int) -> bool:
    """Returns True if the group has this number of members, all partitions are assigned, and each
    member has at least one.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": LOG_NOTHING})
    try:
        found = admin.describe_consumer_groups([group])[group].result(ANSWER_SECONDS)
    except KafkaException:
        return False  # A group without members does not exist.
    shares = [len(member.assignment.topic_partitions) for member in found.members]
    stable = found.state is ConsumerGroupState.STABLE
    return stable and len(shares) == members and min(shares) > 0 and sum(shares) == partitions


@contextmanager
def hidden_log(
    bootstrap_servers: str, events: Iterable[BenchEvent], encode: Encode = plain_record
) -> Iterator[Callable[[], float]]:
    """Produces the events as records that `encode` makes. Yields a function that makes these events
    visible.

    The function returns the time at which it began.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "log_level": LOG_NOTHING,
            "transactional.id": f"bench-{uuid.uuid4()}",
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "queue.buffering.max.messages": 2 * MAX_QUEUED,
        }
    )
    producer.init_transactions(ANSWER_SECONDS)
    producer.begin_transaction()
    for event in events:
        key, value = encode(event)
        producer.produce(TOPIC, value, key)
        if event.number % POLL_EVERY == 0:
            while len(producer) > MAX_QUEUED:
                producer.poll(RETRY_SECONDS)
    producer.flush(ANSWER_SECONDS)
    revealed = False

    def reveal() -> float:
        nonlocal revealed
        began_at = time.time()
        producer.commit_transaction(ANSWER_SECONDS)
        revealed = True
        return began_at

    try:
        yield reveal
    finally:
        if not revealed:
            producer.abort_transaction(ANSWER_SECONDS)


def read_append_times(bootstrap_servers: str, topic: str) -> dict[str, float]:
    """Returns the time when the broker appended the first copy of each ce_id, in seconds since 1970.

    The topic must use LogAppendTime. So no consumer, which would cost CPU, has to run during the measurement.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"bench-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "log_level": LOG_NOTHING,
        }
    )
    found: dict[str, float] = {}
    left = 0
    for number in range(PARTITIONS):
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=ANSWER_SECONDS)
        left += end
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    while left > 0:
        messages: list[Any] = consumer.consume(POLL_EVERY, ANSWER_SECONDS)
        if not messages:
            raise TimeoutError(f"{left} records of {topic} did not arrive")
        for message in messages:
            left -= 1
            event_id = dict(message.headers())["ce_id"].decode()
            found.setdefault(event_id, message.timestamp()[1] / MILLISECONDS)
    consumer.close()
    return found


def _partitions(admin: AdminClient, topic: str) -> list[int]:
    topics = admin.list_topics(topic=topic, timeout=ANSWER_SECONDS).topics
    return [number for number, found in topics[topic].partitions.items() if found.leader >= 0]
