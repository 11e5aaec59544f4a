"""One poll of a kafka-python consumer in a group, with a workaround for a rebalance that never ends."""

from typing import Any

POLL_MS = 100


def poll_group(consumer: Any) -> Any:
    """Returns records by partition, possibly none.

    Works around a bug of kafka-python 3.0.12. If the leader of the group rejoins because metadata changed,
    it discards the reason as soon as it has made the assignment. If a poll ends before the answer to
    SyncGroup, no later poll reads the answer. The broker has then assigned partitions to the consumer, but
    the consumer never reads them. This is common at the first start, when the first join precedes the
    topic's metadata. So, while a join is in flight, this function requests the join again.
    """
    coordinator = consumer._coordinator
    if coordinator.rejoining:
        coordinator.request_rejoin()
    return consumer.poll(timeout_ms=POLL_MS)
