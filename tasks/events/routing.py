"""Selects the queue of an entity's records. Pure."""

from hashlib import blake2b


def shard_of(key: bytes | None, shards: int) -> int:
    """Returns the shard of a record key. A null key counts as the empty key.

    With Kafka's own hash (murmur2), the keys of one partition would be in only a few queues.
    """
    return int.from_bytes(blake2b(key or b"", digest_size=8).digest(), "big") % shards


def queue_name(entity: str, shard: int) -> str:
    """Returns the Celery queue of one shard of an entity type."""
    return f"{entity}.{shard}"
