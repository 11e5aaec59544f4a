"""Tests what `sluice doctor` reads from incomplete answers of Kafka."""

from typing import Any

from sluice.admin.doctor.kafka_reading import judge_topics

SETTINGS = {
    "cleanup.policy": {"value": "delete"},
    "retention.ms": {"value": "1000"},
    "segment.ms": {"value": "2000"},
    "min.insync.replicas": {"value": "2"},
}


def described(name: str, *leaders: int, error: int = 0) -> dict[str, Any]:
    partitions = [
        {"partition_index": number, "leader_id": leader, "replica_nodes": [1, 2, 3]}
        for number, leader in enumerate(leaders)
    ]
    return {"name": name, "topic_id": f"id-{name}", "error_code": error, "partitions": partitions}


def test_a_topic_that_kafka_refuses_to_describe_is_not_reported_as_missing() -> None:
    found = judge_topics([described("denied", error=29), described("missing", error=3)], {})
    assert not found.topics
    assert found.refused == {"denied": "TopicAuthorizationFailedError"}


def test_partitions_without_a_leader_and_unknown_settings_are_recorded() -> None:
    found = judge_topics([described("a", 1, -1, 2, -1), described("b", 1)], {"a": SETTINGS, "b": {}}).topics
    assert (found["a"].without_leader, found["a"].retention_ms, found["a"].replicas) == ((1, 3), 1000, 3)
    assert (found["a"].segment_ms, found["b"].segment_ms) == (2000, None)
    assert (found["b"].without_leader, found["b"].retention_ms, found["b"].cleanup_policy) == ((), None, None)
