"""One poll of a kafka-python consumer in a group, with a workaround for a rebalance that never ends."""

from typing import Any

POLL_MS = 100


def poll_group(consumer: Any) -> Any:
    """Returns records by partition, possibly none.

    kafka-python 3.0.12: a leader that rejoins because of changed metadata drops the reason once it has made
    the assignment. If a poll ends before the answer to SyncGroup, no later poll takes the answer: for the
    broker the consumer has partitions, but it never reads them. This is common at the first start, when the
    first join precedes the topic's metadata. So this function requests a join in flight again.
    """
    coordinator = consumer._coordinator
    if coordinator.rejoining:
        coordinator.request_rejoin()
    return consumer.poll(timeout_ms=POLL_MS)
