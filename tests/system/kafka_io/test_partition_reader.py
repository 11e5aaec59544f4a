"""A partition reader returns every record one time, in order, and reports deleted records."""

import functools
import itertools
import os
import threading
import time

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.structs import TopicPartition

from sluice.kafka_io.partition_reader import LogIncomplete, PartitionReader
from sluice.runtime.kafka_access import KafkaAccess
from sluice.stack import Stack
from tests.waiting import wait_until

MANY = 700
_numbers = itertools.count(1)


@pytest.fixture
def topic(kafka: Stack) -> str:
    """The name of an empty topic with one partition."""
    name = f"read-{os.getpid()}-{next(_numbers)}"
    admin = KafkaAdminClient(bootstrap_servers=kafka.kafka_bootstrap_servers())
    admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    admin.close()
    return name


def produce(servers: str, topic: str, count: int, reader: PartitionReader | None = None) -> None:
    """Produces `count` records. With a reader, waits after every few records until it has read them."""
    producer = KafkaProducer(bootstrap_servers=servers, acks="all")
    for number in range(count):
        producer.send(topic, key=b"k", value=b"%d" % number)
        if reader is not None and number % 7 == 0:
            producer.flush()
            there = functools.partial(_has_read, reader, number)
            wait_until(there, timeout_seconds=30, what=f"record {number} is read")
    producer.close()


def _has_read(reader: PartitionReader, offset: int) -> bool:
    return reader.read_through >= offset


def test_every_record_is_read_one_time_while_others_are_produced(kafka: Stack, topic: str) -> None:
    servers = kafka.kafka_bootstrap_servers()
    reader = PartitionReader(KafkaAccess(servers), (topic, 0), 0)
    producing = threading.Thread(target=produce, args=(servers, topic, MANY, reader))
    producing.start()
    found: list[int] = []
    deadline = time.monotonic() + 60
    while len(found) < MANY and time.monotonic() < deadline:
        found += [record.offset for record in reader.read(0.2)]
        assert reader.read_through == (found[-1] if found else -1), "read_through must be the last offset"
    producing.join()
    reader.close()
    assert found == list(range(MANY))


def test_a_reader_begins_at_any_offset_and_reports_the_log_end(kafka: Stack, topic: str) -> None:
    servers = kafka.kafka_bootstrap_servers()
    produce(servers, topic, 10)
    reader = PartitionReader(KafkaAccess(servers), (topic, 0), 7)
    found: list[bytes | None] = []
    while len(found) < 3:
        found += [record.value for record in reader.read(5)]
    assert found == [b"7", b"8", b"9"]
    assert reader.read(1) == []
    assert reader.read_through == 9
    reader.close()


def test_a_reader_below_the_log_start_raises_log_incomplete(kafka: Stack, topic: str) -> None:
    servers = kafka.kafka_bootstrap_servers()
    produce(servers, topic, 10)
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.delete_records({TopicPartition(topic, 0): 5})
    admin.close()
    reader = PartitionReader(KafkaAccess(servers), (topic, 0), 3)
    with pytest.raises(LogIncomplete, match=r"no longer holds the records after offset 2"):
        reader.read(30)
    reader.close()
