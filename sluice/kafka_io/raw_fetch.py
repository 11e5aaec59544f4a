"""Fetches record batches as bytes, without opening them."""

from contextlib import closing
from typing import Any

from kafka import TopicPartition
from kafka.errors import NoError, for_code
from kafka.protocol.consumer import FetchRequest
from kafka.record.default_records import DefaultRecordBatch

from sluice.kafka_io.batch_header import FORMAT, MAGIC_OFFSET, split_batches
from sluice.kafka_io.config import (
    BOOTSTRAP_TIMEOUT_MS,
    REQUEST_TIMEOUT_MS,
    build_kafka_python_consumer,
)
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.place import Place

# The broker always sends the first batch whole, even if it exceeds this limit.
FETCH_BYTES = 1024 * 1024


def fetch_batches(access: KafkaAccess, place: Place, offset: int) -> list[bytes]:
    """Returns the batch that contains the offset and later batches. Raises KafkaError.

    Returns at least two batches, unless the log has no later batch.
    """
    consumer = build_kafka_python_consumer(
        access,
        client_id="sluice-skip",
        group_id=None,
        enable_auto_commit=False,
        bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    with closing(consumer):
        consumer.partitions_for_topic(place[0])
        batches = split_batches(consumer._manager.run(_fetch, consumer, place, offset, FETCH_BYTES))
        if len(batches) == 1:
            enough = len(batches[0]) + FETCH_BYTES
            batches = split_batches(consumer._manager.run(_fetch, consumer, place, offset, enough))
    return batches


async def _fetch(consumer: Any, place: Place, offset: int, max_bytes: int) -> bytes:
    topic, partition = place
    wanted = FetchRequest.FetchTopic.FetchPartition(
        partition=partition, fetch_offset=offset, partition_max_bytes=max_bytes
    )
    request = FetchRequest(
        max_wait_ms=100,
        min_bytes=0,
        max_bytes=max_bytes,
        topics=[FetchRequest.FetchTopic(topic=topic, partitions=[wanted])],
        min_version=4,
        max_version=11,
    )
    leader = consumer._cluster.leader_for_partition(TopicPartition(topic, partition))
    answer = await consumer._manager.send(request, node_id=leader, request_timeout_ms=REQUEST_TIMEOUT_MS)
    (fetched,) = answer.responses[0].partitions
    if for_code(fetched.error_code) is not NoError:
        raise for_code(fetched.error_code)(f"{topic}[{partition}] at offset {offset}")
    return bytes(fetched.records or b"")


def find_unparsed(batch: bytes) -> tuple[int, str] | None:
    """Returns the first offset of the batch that kafka-python cannot read, and the reason.

    Returns None if kafka-python can read all records.
    """
    if batch[MAGIC_OFFSET] < FORMAT:
        return None  # kafka-python reads the older formats too
    opened = DefaultRecordBatch(batch)
    offset = opened.base_offset
    if not opened.validate_crc():
        return offset, "the checksum of the batch is wrong"
    try:
        for record in opened:
            offset = record.offset + 1
    except UnicodeDecodeError:
        return None  # the name of a header is not UTF-8; other code reads such a record without this header
    except Exception as error:
        # The libraries of the codecs raise various errors.
        return offset, f"{type(error).__name__}: {error}"
    return None
