"""Selects the queue of an entity's records. Pure."""

from hashlib import blake2b

_HASHER = blake2b(digest_size=8)  # a copy of it is made faster than a new one


def shard_of(key: bytes | None, shards: int) -> int:
    """Returns the shard of a record key. A null key counts as the empty key.

    With Kafka's own hash (murmur2), the keys of one partition would be in only a few queues.
    """
    hasher = _HASHER.copy()
    hasher.update(key or b"")
    return int.from_bytes(hasher.digest(), "big") % shards


def queue_name(entity: str, shard: int) -> str:
    """Returns the Celery queue of one shard of an entity type."""
    return f"{entity}.{shard}"
