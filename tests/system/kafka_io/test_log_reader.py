"""The log reader of the commands returns ranges, times and records, even if a record cannot be read."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from kafka import KafkaProducer

from sluice.kafka_io import partition_reader
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.log_reader import LogReader, LogsUnavailable
from sluice.kafka_io.partition_reader import PartitionReader, RecordUnreadable
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import WHOLE
from sluice.runtime.skipped_range import SkippedRange
from sluice.stack import Stack
from tests.harness.raw_batches import (
    build_batch,
    damage_batch,
    damage_second_record,
    produce_batch,
    set_unknown_codec,
)
from tests.system.kafka_io.consuming import produce
from tests.waiting import wait_until

NOWHERE = "127.0.0.1:1"
RECORDS = [("k", b"x" * 99)] * 3


@pytest.fixture
def reader(kafka: Stack) -> Iterator[LogReader]:
    """Yields a log reader on the Kafka of the test."""
    with closing(LogReader(KafkaAccess(kafka.kafka_bootstrap_servers()), WHOLE)) as made:
        yield made


READ_WITHOUT_PAUSE = """
import sys
from pathlib import Path
from sluice.kafka_io.log_reader import LogReader, LogsUnavailable
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import WHOLE
reader = LogReader(KafkaAccess(sys.argv[1]), WHOLE, request_timeout_ms=2_000)
while True:
    try:
        reader.read_ranges([])
        reader.read_ranges(["orders"])
    except LogsUnavailable:
        continue
    Path(sys.argv[2]).touch()
"""


def read_all(reader: PartitionReader, end: int) -> list[int]:
    """Returns the offsets of all records before the end."""
    found: list[int] = []
    with closing(reader):
        while reader.read_through + 1 < end:
            found += [record.offset for record in reader.read(1)]
    return found


def test_records_behind_an_open_transaction_are_counted(kafka: Stack, reader: LogReader, topic: str) -> None:
    producer = Producer(
        {"bootstrap.servers": kafka.kafka_bootstrap_servers(), "transactional.id": f"tx-{topic}"}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=0)
    producer.flush()
    with closing(KafkaProducer(bootstrap_servers=kafka.kafka_bootstrap_servers(), acks="all")) as plain:
        produce(plain, topic, 0, 4)
    found = reader.read_ranges([topic, "nowhere"])
    assert found.ranges == {(topic, 0): LogRange(0, 0, 5), (topic, 1): LogRange(0, 0, 0)}
    assert found.ranges[topic, 0].behind_transaction == 5
    assert (found.unreadable, found.unreadable_topics, list(found.topic_ids)) == ({}, {}, [topic])
    producer.commit_transaction()
    closed = LogRange(0, 6, 6)
    wait_until(
        lambda: reader.read_ranges([topic]).ranges[topic, 0] == closed,
        timeout_seconds=30,
        what="the transaction is closed",
    )


def test_without_a_broker_the_error_names_the_reason_of_the_client() -> None:
    reader = LogReader(KafkaAccess(NOWHERE), WHOLE, request_timeout_ms=1_000)
    with closing(reader), pytest.raises(LogsUnavailable, match=r"refused|Timed out"):
        reader.read_ranges(["orders"])


def test_a_request_that_the_client_never_ends_is_given_up() -> None:
    with closing(LogReader(KafkaAccess(NOWHERE), WHOLE)) as reader, pytest.raises(KafkaException) as raised:
        reader._await_answer(Future(), 0.1)
    assert raised.value.args[0].code() == KafkaError._TIMED_OUT


@pytest.mark.own("kafka")
def test_a_broker_that_stops_and_starts_does_not_end_the_process(kafka: Stack, tmp_path: Path) -> None:
    answered = tmp_path / "answered"
    kafka.start("kafka")
    reading = subprocess.Popen(
        [sys.executable, "-c", READ_WITHOUT_PAUSE, kafka.kafka_bootstrap_servers(), str(answered)]
    )
    try:
        for _ in range(2):
            answered.unlink(missing_ok=True)
            wait_until(
                lambda: answered.exists() or reading.poll() is not None,
                timeout_seconds=60,
                what="the broker answers the reader",
            )
            kafka.stop("kafka")
            kafka.start("kafka")
        assert reading.poll() is None
    finally:
        reading.kill()
        reading.wait()


def test_an_unreadable_record_does_not_hide_other_records(
    kafka: Stack, reader: LogReader, topic: str, producer: KafkaProducer
) -> None:
    place = (topic, 0)
    produce(producer, topic, 0, 2)
    produce(producer, topic, 1, 1)
    bad = produce_batch(kafka.kafka_bootstrap_servers(), place, build_batch(RECORDS, codec="zstd"))
    damage_batch(kafka, place, bad, set_unknown_codec)
    produce(producer, topic, 0, 1)
    assert reader.read_times({place: bad, (topic, 1): 0}).keys() == {(topic, 1)}
    found = reader.read_record(place, bad - 1)
    assert found is not None
    assert found.offset == bad - 1
    assert reader.read_record(place, bad + 99) is None
    with pytest.raises(RecordUnreadable, match=f"offset {bad} cannot be read: .*Not implemented"):
        reader.read_record(place, bad)

    access = KafkaAccess(kafka.kafka_bootstrap_servers())
    skipped = [SkippedRange(bad, bad + 2)]
    assert read_all(PartitionReader(access, place, 0, skipped=skipped), bad + 4) == [0, 1, bad + 3]
    # The reader starts within the batch. The range that it skips also contains a record that can be read.
    assert read_all(PartitionReader(access, place, bad + 1, skipped=skipped), bad + 4) == [bad + 3]
    assert read_all(PartitionReader(access, place, 0, skipped=[SkippedRange(1, 1)]), 2) == [0]


def test_a_malformed_record_that_the_client_does_not_report_is_found(
    kafka: Stack, topic: str, producer: KafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_reader, "STALLED_SECONDS", 1.0)
    servers, place = kafka.kafka_bootstrap_servers(), (topic, 0)
    first = produce_batch(servers, place, build_batch(RECORDS))
    damage_batch(kafka, place, first, damage_second_record)
    produce(producer, topic, 0, 1)
    with pytest.raises(RecordUnreadable) as raised:
        read_all(PartitionReader(KafkaAccess(servers), place, 0), 4)
    assert raised.value.offset == first + 1
    assert read_all(PartitionReader(KafkaAccess(servers), place, 0, skipped=[SkippedRange(1, 2)]), 4) == [
        0,
        3,
    ]
