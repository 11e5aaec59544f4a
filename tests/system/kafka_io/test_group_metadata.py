"""The metadata that a bridge commits with its offsets can be read by `GroupMetadataReader`."""

from contextlib import closing

import pytest
from kafka import KafkaProducer

from sluice.kafka_io.consumer import Consumer
from sluice.kafka_io.group_metadata import GroupMetadataReader
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import WHOLE
from sluice.stack import Stack
from tests.system.kafka_io.consuming import CLIENTS, POLL_SECONDS, AnyConsumer
from tests.waiting import wait_until


@pytest.mark.parametrize("client", CLIENTS)
def test_the_metadata_of_a_commit_is_read_back(
    client: type[AnyConsumer], kafka: Stack, topic: str, producer: KafkaProducer
) -> None:
    servers, group = kafka.kafka_bootstrap_servers(), f"group-{topic}"
    with closing(GroupMetadataReader(KafkaAccess(servers), group)) as reader:
        assert reader.read() == set()
        text = ""
        consumer: Consumer = client(
            KafkaAccess(servers),
            group=group,
            instance=None,
            topics=[topic],
            share=WHOLE,
            commit_metadata=lambda: text,
        )

        def committed(places: list[int], expected: set[str]) -> None:
            def reads() -> bool:
                # Repeats the commit, as a bridge does, because a rebalance may reject a commit.
                consumer.commit({(topic, number): 0 for number in places})
                consumer.poll(POLL_SECONDS)
                return reader.read() == expected

            wait_until(reads, timeout_seconds=30, what=f"the metadata is {expected}")

        def joined() -> bool:
            consumer.poll(POLL_SECONDS)
            return len(consumer.assignment()) == 2

        wait_until(joined, timeout_seconds=30, what="both partitions are assigned")
        text = "1.0.first"
        committed([0], {"1.0.first"})
        text = "1.0.second"
        committed([1], {"1.0.first", "1.0.second"})
        text = ""
        committed([0], {"1.0.second"})
        consumer.close()
