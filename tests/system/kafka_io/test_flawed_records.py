"""Both clients read records with header names that are not UTF-8, and records above the size limit."""

from contextlib import closing
from hashlib import sha256

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from sluice.kafka_io.log_reader import LogReader
from sluice.kafka_io.partition_reader import PartitionReader
from sluice.kafka_io.record_types import Flaw, Headers, Record
from sluice.kafka_io.whole_record import read_whole_record
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import WHOLE
from sluice.runtime.place import Place
from sluice.stack import Stack
from tests.harness.header_names import RawName
from tests.system.kafka_io.consuming import CLIENTS, POLL_SECONDS, AnyConsumer, poll_until
from tests.waiting import wait_until

BOUND = 64 * 1024
NOT_UTF_8 = (b"\xff", b"\xed\xa0\x80", b"a\x80", b"\xc0\xaf")
HEADERS: list[list[tuple[str, bytes]]] = [
    [("a", b"1")],
    *([("a", b"1"), (RawName(name), b"2"), ("z", b"")] for name in NOT_UTF_8),
    [(RawName(name), b"2") for name in NOT_UTF_8],
    [("", b"no name")],
    [(f"h{number}", b"x") for number in range(100)],
]
ROUNDS = 30
LARGE = bytes(BOUND + 1)


def produce(kafka: Stack, topic: str) -> list[Record]:
    """Produces records with each of HEADERS, a large record and a record without value.

    Returns the records as a bridge must read them.
    """
    expected = []
    with closing(KafkaProducer(bootstrap_servers=kafka.kafka_bootstrap_servers(), linger_ms=100)) as producer:
        # After ROUNDS repetitions, the interpreter has specialised the code for each kind of record.
        for number, headers in enumerate(HEADERS * ROUNDS):
            producer.send(topic, key=b"k", value=b"v", partition=0, headers=headers, timestamp_ms=1)
            readable: Headers = [
                (str(name), value) for name, value in headers if not isinstance(name, RawName)
            ]
            lost = len(headers) - len(readable)
            expected.append(Record(number, 1, b"k", b"v", readable, Flaw(lost) if lost else None))
        producer.send(topic, key=b"k", value=LARGE, partition=0, timestamp_ms=1)
        flaw = Flaw(0, len(LARGE) + 1, sha256(LARGE).digest())
        expected.append(Record(len(expected), 1, b"k", None, [], flaw))
        producer.send(topic, key=b"k", value=None, partition=0, timestamp_ms=1)
        expected.append(Record(len(expected), 1, b"k", None, []))
    return expected


@pytest.mark.parametrize("client", CLIENTS)
def test_a_consumer_reads_flawed_records_and_the_records_behind_them(
    kafka: Stack, topic: str, client: type[AnyConsumer]
) -> None:
    expected = produce(kafka, topic)
    place = (topic, 0)
    consumer = client(
        KafkaAccess(kafka.kafka_bootstrap_servers()),
        group=topic,
        instance=None,
        topics=[topic],
        share=WHOLE,
        max_record_bytes=BOUND,
    )
    with closing(consumer):
        wait_until(
            lambda: not consumer.poll(POLL_SECONDS) and len(consumer.assignment()) == 2,
            timeout_seconds=30,
            what="both partitions are assigned",
        )
        for assigned in consumer.assignment():
            consumer.seek(assigned, 0)
        got: dict[Place, list[Record]] = {}
        poll_until(consumer, got, place, len(expected))
    assert got[place] == expected


def test_commands_and_rebuilds_read_flawed_records_as_a_bridge_does(kafka: Stack, topic: str) -> None:
    expected = produce(kafka, topic)
    servers, place = kafka.kafka_bootstrap_servers(), (topic, 0)
    found: list[Record] = []
    with closing(PartitionReader(KafkaAccess(servers), place, 0, max_record_bytes=BOUND)) as reader:
        while len(found) < len(expected):
            found += reader.read(5)
    assert found == expected
    with closing(LogReader(KafkaAccess(servers), WHOLE)) as looking:
        assert looking.read_record(place, 1) == expected[1]


def test_a_large_record_is_read_completely_until_kafka_deletes_it(kafka: Stack, topic: str) -> None:
    large = produce(kafka, topic)[-2]
    servers, place = kafka.kafka_bootstrap_servers(), (topic, 0)
    found = read_whole_record(KafkaAccess(servers), place, large.offset)
    assert found == large._replace(value=LARGE, flaw=None)
    assert read_whole_record(KafkaAccess(servers), place, large.offset + 10) is None
    with closing(KafkaAdminClient(bootstrap_servers=servers)) as admin:
        admin.delete_records({TopicPartition(*place): large.offset + 1})
    assert read_whole_record(KafkaAccess(servers), place, large.offset) is None
