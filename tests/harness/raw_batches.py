"""Record batches that no producer makes: written to the broker as bytes, or damaged in its files."""

import struct
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import for_code
from kafka.protocol.producer import ProduceRequest
from kafka.record.memory_records import MemoryRecordsBuilder

from sluice.runtime.place import Place
from sluice.stack import Stack
from sluice.stack.patience import patient

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CODECS = {"none": 0, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
_LARGEST_BATCH = 2**31 - 1


def build_batch(values: Iterable[bytes | None], *, codec: int = 0, key: bytes | None = b"k") -> bytes:
    """Returns one batch with these values."""
    builder = MemoryRecordsBuilder(2, codec, _LARGEST_BATCH)
    for value in values:
        assert builder.append(None, key, value, []) is not None
    builder.close()
    return bytes(builder.buffer())


def produce_batch(servers: str, place: Place, batch: bytes) -> int:
    """Writes a batch to its partition as it is. Returns the offset of its first record."""
    topic, partition = place
    with closing(KafkaConsumer(bootstrap_servers=servers)) as client:
        client.partitions_for_topic(topic)
        answer = client._manager.run(_send, client._manager, topic, partition, batch)
    said = answer.responses[0].partition_responses[0]
    if said.error_code:
        raise for_code(said.error_code)(said.error_message)
    return int(said.base_offset)


async def _send(manager: Any, topic: str, partition: int, batch: bytes) -> Any:
    written = ProduceRequest.TopicProduceData.PartitionProduceData(index=partition, records=batch)
    request = ProduceRequest(
        transactional_id=None,
        acks=-1,
        timeout_ms=int(patient(30) * 1000),
        topic_data=[ProduceRequest.TopicProduceData(name=topic, partition_data=[written])],
        max_version=8,
    )
    return await manager.send(request, request_timeout_ms=int(patient(60) * 1000))


def damage_batch(stack: Stack, place: Place, offset: int, change: Callable[[bytearray], None]) -> None:
    """Changes the bytes of the batch that begins at the offset, in the file of a running broker."""
    topic, partition = place
    (path,) = (stack.root / "kafka" / "data" / f"{topic}-{partition}").glob("*.log")
    with path.open("r+b") as file:
        while head := file.read(12):
            base, length = struct.unpack(">qi", head)
            body = file.read(length)
            if base == offset:
                batch = bytearray(head + body)
                change(batch)
                file.seek(-len(batch), 1)
                file.write(batch)
                return
    raise AssertionError(f"no batch of {topic}[{partition}] begins at {offset}")


def flip_last_byte(batch: bytearray) -> None:
    """Makes the checksum of the batch wrong."""
    batch[-1] ^= 0xFF
