"""Which queue an entity's records go to. Pure."""

from hashlib import blake2b


def shard_of(key: bytes | None, shards: int) -> int:
    """The shard of a record key; a null key is the empty one.

    Never Kafka's own hash: keys that murmur2 put on one partition would then share few queues.
    """
    return int.from_bytes(blake2b(key or b"", digest_size=8).digest(), "big") % shards


def queue_name(entity: str, shard: int) -> str:
    """The Celery queue of one shard of an entity type."""
    return f"{entity}.{shard}"
