"""Helpers for tests of both consumers of the bridge: producing and polling records."""

from typing import TypeAlias

from kafka import KafkaProducer

from sluice.kafka_io.confluent_consumer import ConfluentConsumer
from sluice.kafka_io.consumer import Consumer
from sluice.kafka_io.kafka_python_consumer import KafkaPythonConsumer
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from tests.waiting import wait_until

POLL_SECONDS = 0.05
AnyConsumer: TypeAlias = ConfluentConsumer | KafkaPythonConsumer
CLIENTS: tuple[type[AnyConsumer], ...] = (ConfluentConsumer, KafkaPythonConsumer)


def produce(producer: KafkaProducer, topic: str, partition: int, count: int) -> None:
    """Sends records and waits for their acknowledgement."""
    for _ in range(count):
        producer.send(topic, b"value", partition=partition)
    producer.flush()


def poll_until(consumer: Consumer, got: dict[Place, list[Record]], place: Place, count: int) -> None:
    """Polls until `got` contains `count` records of the partition. Adds the polled records to `got`."""

    def enough() -> bool:
        for found, records in consumer.poll(POLL_SECONDS).items():
            got.setdefault(found, []).extend(records)
        return len(got.get(place, ())) >= count

    wait_until(enough, timeout_seconds=30, what=f"{count} records of {place}")
