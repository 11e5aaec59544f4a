"""Which queue a record goes to, and which partition its producer should have chosen. Pure."""

from hashlib import blake2b


def shard_of(key: bytes | None, shards: int) -> int:
    """The shard of a record key; a null key is the empty one.

    Never Kafka's own hash: keys that murmur2 put on one partition would then share few queues.
    """
    return int.from_bytes(blake2b(key or b"", digest_size=8).digest(), "big") % shards


def queue_name(entity: str, shard: int) -> str:
    """The Celery queue of one shard of an entity type."""
    return f"{entity}.{shard}"


def expected_partition(key: bytes, partitions: int) -> int:
    """The partition the Java client's default partitioner gives a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with the seed of Kafka's clients."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if length > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)
