"""Record batches that no producer sends: a test sends raw bytes, or changes bytes in the broker's files."""

import struct
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import for_code
from kafka.protocol.producer import ProduceRequest
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.record.util import calc_crc32c, decode_varint

from sluice.runtime.place import Place
from sluice.stack import Stack
from sluice.stack.patience import patient

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_LARGEST_BATCH = 2**31 - 1
_FORMAT_AT, _CHECKSUM_AT, _ATTRIBUTES_AT, _HEADER_BYTES = 16, 17, 21, 61
_CODEC_MASK = 0x07


def build_batch(records: Iterable[tuple[str, bytes]], *, codec: str = "none") -> bytes:
    """Returns one batch with these keys and values. Requires records that the codec can compress."""
    builder = MemoryRecordsBuilder(2, CODECS[codec], _LARGEST_BATCH)
    for key, value in records:
        assert builder.append(None, key.encode(), value, []) is not None
    builder.close()
    batch = bytes(builder.buffer())
    assert batch[_ATTRIBUTES_AT + 1] & _CODEC_MASK == CODECS[codec]
    return batch


def produce_batch(servers: str, place: Place, batch: bytes) -> int:
    """Writes a batch to a partition without changes. Returns the offset of its first record."""
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
    """Changes the checksum of the batch to a wrong checksum."""
    batch[-1] ^= 0xFF


def damage_payload(batch: bytearray) -> None:
    """Damages the compressed records of the batch, so that no codec can decompress them."""
    for at in range(_HEADER_BYTES + 4, len(batch)):
        batch[at] ^= 0x5A
    _sign(batch)


def set_unknown_codec(batch: bytearray) -> None:
    """Sets a codec number that does not exist."""
    batch[_ATTRIBUTES_AT + 1] |= 0x07
    _sign(batch)


def set_unknown_format(batch: bytearray) -> None:
    """Sets a format version that does not exist."""
    batch[_FORMAT_AT] = 3


def damage_second_record(batch: bytearray) -> None:
    """Sets a length of the second record that exceeds the batch.

    The batch must be uncompressed, and the record must have 64 bytes or more.
    """
    first_bytes, first_at = decode_varint(batch, _HEADER_BYTES)
    second_at = first_at + first_bytes
    batch[second_at : second_at + 2] = b"\xfe\x7f"
    _sign(batch)


def _sign(batch: bytearray) -> None:
    struct.pack_into(">I", batch, _CHECKSUM_AT, calc_crc32c(bytes(batch[_ATTRIBUTES_AT:])))
