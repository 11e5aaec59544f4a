"""A topic and a producer of the test's own."""

import itertools
import os
from collections.abc import Iterator
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from sluice.stack import Stack

_numbers = itertools.count(1)


@pytest.fixture
def topic(kafka: Stack) -> str:
    """Two partitions, empty."""
    name = f"consumed-{os.getpid()}-{next(_numbers)}"
    with closing(KafkaAdminClient(bootstrap_servers=kafka.kafka_bootstrap_servers())) as admin:
        admin.create_topics({name: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)
    return name


@pytest.fixture
def producer(kafka: Stack) -> Iterator[KafkaProducer]:
    """One that waits for every acknowledgement."""
    made = KafkaProducer(bootstrap_servers=kafka.kafka_bootstrap_servers(), acks="all", linger_ms=20)
    yield made
    made.close()
