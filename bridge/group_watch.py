"""Which partitions no member of the group has, asked of its coordinator now and then."""

import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

from bridge.consumer import TopicFacts
from bridge.unread import Unread
from db.progress import Place

ASK_EVERY_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0


class GroupWatch:
    """Owned by one thread. Without an answer, and while the group shares out, nothing counts as unread.

    A static member that comes back gets what it had, without a rebalance. If it leads, nobody compares that
    with what there is by now: partitions added while it was away would be read after the next rebalance.
    """

    def __init__(self, bootstrap_servers: str, group: str) -> None:
        # Every try to connect would be a line; that Kafka is away is said once, elsewhere.
        settings: dict[str, str | int | float | bool] = {
            "bootstrap.servers": bootstrap_servers,
            "client.id": "sluice-bridge",
            "log_level": 2,
        }
        self._admin = AdminClient(settings)
        self._group = group
        self._asked: Future[Any] | None = None
        self._asked_at = float("-inf")
        self._unread = Unread()

    def look(self, facts: Mapping[str, TopicFacts]) -> dict[Place, float]:
        """Which of these topics' partitions are nobody's, for how many seconds. Waits for nothing."""
        if self._asked is not None and self._asked.done():
            self._unread.note(facts, _held(self._asked), time.monotonic())
            self._asked = None
        if self._asked is None and time.monotonic() >= self._asked_at + ASK_EVERY_SECONDS:
            self._asked_at = time.monotonic()
            asked = self._admin.describe_consumer_groups(
                [self._group], request_timeout=ANSWER_TIMEOUT_SECONDS
            )
            self._asked = asked[self._group]
        return self._unread.seconds(time.monotonic())


def _held(asked: Future[Any]) -> frozenset[Place] | None:
    try:
        group = asked.result()
    except (KafkaException, TimeoutError):
        return None
    if group.state is not ConsumerGroupState.STABLE:
        return None
    return frozenset(
        (place.topic, place.partition)
        for member in group.members
        for place in member.assignment.topic_partitions
    )
