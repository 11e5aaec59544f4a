"""Fixtures for a topic and a producer of one test."""

import itertools
import os
from collections.abc import Iterator
from contextlib import closing

import pytest
from kafka import KafkaProducer

from sluice.kafka_io.config import build_kafka_python_admin, build_kafka_python_producer
from sluice.stack import Stack

_numbers = itertools.count(1)


@pytest.fixture
def topic(kafka: Stack) -> str:
    """The name of an empty topic with two partitions."""
    name = f"consumed-{os.getpid()}-{next(_numbers)}"
    with closing(build_kafka_python_admin(kafka.kafka_access())) as admin:
        admin.create_topics({name: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)
    return name


@pytest.fixture
def producer(kafka: Stack) -> Iterator[KafkaProducer]:
    """A producer with `acks=all`."""
    made = build_kafka_python_producer(kafka.kafka_access(), acks="all", linger_ms=20)
    yield made
    made.close()
