"""One poll of a kafka-python consumer in a group, without the rebalance that never ends."""

from typing import Any

POLL_MS = 100


def poll_group(consumer: Any) -> Any:
    """Records by partition, perhaps none.

    kafka-python 3.0.12: a leader that rejoins because metadata changed forgets why as soon as it has made the
    assignment. If a poll ends between that and the answer to SyncGroup, no later poll takes the answer: the
    consumer has partitions, by the broker's account, and reads nothing for ever. Common at the first start,
    when the first join comes before the topic's metadata. So a join under way is asked for again.
    """
    coordinator = consumer._coordinator
    if coordinator.rejoining:
        coordinator.request_rejoin()
    return consumer.poll(timeout_ms=POLL_MS)
