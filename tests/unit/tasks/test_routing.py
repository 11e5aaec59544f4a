"""Routing to shards is stable. The check of partitions computes the partition as the Kafka clients do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_murmur2

from sluice.bridge.partitioner import expected_partition, murmur2
from sluice.tasks.events.routing import queue_name, shard_of


@given(st.binary(max_size=64))
def test_murmur2_equals_the_murmur2_of_the_kafka_clients(key: bytes) -> None:
    assert murmur2(key) == kafka_murmur2(key) & 0xFFFFFFFF


@given(st.binary(max_size=64), st.integers(1, 500))
def test_a_partition_is_in_range(key: bytes, partitions: int) -> None:
    assert 0 <= expected_partition(key, partitions) < partitions


@pytest.mark.parametrize(
    ("key", "shards", "shard"),
    # Fixed values: a changed hash would send existing entities to other queues without re-routing.
    [(b"acc-42", 16, 9), (b"order-99", 16, 12), (b"", 7, 0), (None, 7, 0), ("ключ".encode(), 16, 0)],
)
def test_the_shard_of_a_key_never_changes(key: bytes | None, shards: int, shard: int) -> None:
    assert shard_of(key, shards) == shard


def test_shards_are_independent_of_partitions() -> None:
    """The keys of one Kafka partition are distributed over all shards."""
    keys = [b"key-%d" % n for n in range(4_000)]
    of_one = [key for key in keys if expected_partition(key, 4) == 0]
    counts = [sum(shard_of(key, 4) == shard for key in of_one) for shard in range(4)]
    assert min(counts) > len(of_one) / 8


def test_a_queue_name_has_the_entity_and_the_shard() -> None:
    assert queue_name("payment", 3) == "payment.3"
