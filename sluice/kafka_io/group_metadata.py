"""Reads the metadata that members of a consumer group committed with their offsets. Joins no group."""

from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException

from sluice.kafka_io.config import LOG_LEVEL_CRITICAL, KafkaAccess, build_confluent_admin

TIMEOUT_SECONDS = 3.0
"""A process that starts without Kafka waits no longer for it."""


class GroupMetadataUnavailable(Exception):
    """Kafka did not answer in time, or this process has no rights to describe the group."""


class GroupMetadataReader:
    """Keeps one client, made at the first use. Owned by one thread."""

    def __init__(self, bootstrap_servers: str, group: str) -> None:
        self._access = KafkaAccess(bootstrap_servers)
        self._group = group
        self._admin: Any = None

    def read(self) -> set[str]:
        """Returns the metadata of the group's offsets. Raises GroupMetadataUnavailable."""
        try:
            if self._admin is None:
                self._admin = build_confluent_admin(self._access, {"log_level": LOG_LEVEL_CRITICAL})
            asked = self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(self._group)], request_timeout=TIMEOUT_SECONDS
            )
            answer = asked[self._group].result(TIMEOUT_SECONDS + 1)
        except (KafkaException, TimeoutError, RuntimeError) as error:
            raise GroupMetadataUnavailable(f"{type(error).__name__}: {error}") from error
        return {place.metadata for place in answer.topic_partitions if place.metadata}

    def close(self) -> None:
        """Ends the client. Idempotent."""
        self._admin = None
