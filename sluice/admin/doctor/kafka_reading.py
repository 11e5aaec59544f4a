"""Reads the facts of Kafka for `sluice doctor`. If a part fails, the error is kept and the rest is read."""

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import UnknownTopicOrPartitionError, for_code

from sluice.admin.doctor.facts import KafkaFacts, TopicFacts
from sluice.kafka_io.config import (
    BOOTSTRAP_TIMEOUT_MS,
    LOG_LEVEL_CRITICAL,
    REQUEST_TIMEOUT_MS,
    build_confluent_admin,
    build_kafka_python_admin,
)
from sluice.kafka_io.log_reader import LogReader
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place

TOPIC_SETTINGS = ("cleanup.policy", "retention.ms", "segment.ms", "min.insync.replicas")


def read_kafka(access: KafkaAccess, topics: Sequence[str], outgoing: Sequence[str]) -> KafkaFacts:
    """Reads the topics that exist, and finds the topics of outgoing events that do not exist.
    Raises KafkaError if no broker answers.
    """
    admin = build_kafka_python_admin(
        access,
        bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    with closing(admin):
        wanted = frozenset(topics)
        found_topics = admin.describe_topics(sorted(wanted.union(outgoing)))
        described = [topic for topic in found_topics if topic["name"] in wanted]
        existing = [topic for topic in described if topic["partitions"]]
        asked = [
            ConfigResource(ConfigResourceType.TOPIC, topic["name"], dict.fromkeys(TOPIC_SETTINGS))
            for topic in existing
        ]
        found = admin.describe_configs(asked, config_filter="all").get("topic", {}) if asked else {}
    missing = (topic["name"] for topic in found_topics if _is_missing(topic))
    return replace(judge_topics(described, found), missing_outgoing=frozenset(outgoing).intersection(missing))


def read_missing_rights(
    access: KafkaAccess, read: Iterable[str], written: Iterable[str]
) -> dict[str, list[str]]:
    """Returns the operations that this user may not use on the topics that it may describe.

    Raises KafkaException.
    """
    needed: dict[str, set[str]] = {}
    for operation, topics in (("READ", read), ("WRITE", written)):
        for topic in topics:
            needed.setdefault(topic, set()).add(operation)
    if not needed:
        return {}
    admin = build_confluent_admin(access, {"log_level": LOG_LEVEL_CRITICAL})
    asked = admin.describe_topics(
        TopicCollection(sorted(needed)),
        include_authorized_operations=True,
        request_timeout=REQUEST_TIMEOUT_MS / 1_000,
    )
    found = {}
    for topic, future in asked.items():
        with suppress(KafkaException):  # topics that do not exist or are refused have findings of their own
            allowed = {one.name for one in future.result().authorized_operations}
            found[topic] = sorted(needed[topic] - allowed)
    return {topic: operations for topic, operations in found.items() if operations}


def read_log_starts(access: KafkaAccess, share: PartitionShare, topics: Sequence[str]) -> dict[Place, int]:
    """Returns the log starts of the share's partitions, without partitions that do not answer."""
    with closing(LogReader(access, share)) as reader:
        return {place: log.start for place, log in reader.read_ranges(topics).ranges.items()}


def find_missing_topics(access: KafkaAccess, topics: Sequence[str]) -> Set[str]:
    """Returns the topics that do not exist. Raises KafkaError if no broker answers."""
    return read_kafka(access, (), topics).missing_outgoing if topics else frozenset()


def judge_topics(described: Iterable[Any], settings: Mapping[str, Any]) -> KafkaFacts:
    """Returns the facts of the described topics. If Kafka refuses the settings of a topic, its
    facts have no settings. Pure.
    """
    topics: dict[str, TopicFacts] = {}
    refused: dict[str, str] = {}
    for topic in described:
        if topic["partitions"]:
            topics[topic["name"]] = _topic(topic, settings.get(topic["name"], {}))
        elif topic["error_code"] not in (0, UnknownTopicOrPartitionError.errno):
            refused[topic["name"]] = for_code(topic["error_code"]).__name__
    return KafkaFacts(topics, refused)


def _is_missing(described: Any) -> bool:
    return bool(described["error_code"] == UnknownTopicOrPartitionError.errno)


def _topic(described: Any, settings: Any) -> TopicFacts:
    policy, retention, segment, insync = (settings.get(name, {}).get("value") for name in TOPIC_SETTINGS)
    partitions = described["partitions"]
    return TopicFacts(
        topic_id=str(described["topic_id"]),
        partitions=len(partitions),
        replicas=min(len(part["replica_nodes"]) for part in partitions),
        min_insync_replicas=None if insync is None else int(insync),
        cleanup_policy=policy,
        retention_ms=None if retention is None else int(retention),
        segment_ms=None if segment is None else int(segment),
        without_leader=tuple(sorted(part["partition_index"] for part in partitions if part["leader_id"] < 0)),
    )
