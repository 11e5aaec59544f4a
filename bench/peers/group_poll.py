"""One poll of a kafka-python consumer in a group, with a workaround for a rebalance that never ends."""

from typing import Any

POLL_MS = 100


def poll_group(consumer: Any) -> Any:
    """Returns records by partition, possibly none.

    Works around a bug of kafka-python 3.0.12. A leader that rejoins because of changed metadata drops the
    reason as soon as it has made the assignment. If a poll ends before the answer to SyncGroup, no later poll
    reads the answer. The broker has then assigned partitions to the consumer, but the consumer never reads
    them. This is common at the first start, when the first join precedes the topic's metadata. So this
    function requests a join in flight again.
    """
    coordinator = consumer._coordinator
    if coordinator.rejoining:
        coordinator.request_rejoin()
    return consumer.poll(timeout_ms=POLL_MS)
