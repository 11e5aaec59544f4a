"""The rules of `sluice doctor` about partitions that no bridge reads, and facts that Kafka lacks. Pure."""

from collections.abc import Iterator, Sequence

from sluice.admin.doctor.facts import DeclaredFacts, KafkaFacts, PostgresFacts
from sluice.admin.doctor.findings import Finding, error, graded, warning
from sluice.db.delivery.unread_partitions import UnreadKind, UnreadPartition, describe_unread, group_unread

_ADVICE = {
    UnreadKind.NO_LEADER: "Start the brokers that hold the replicas of these partitions, or check the"
    " cluster's controller.",
    UnreadKind.NOT_AUTHORIZED: "Grant the right to the role that the bridges use.",
    UnreadKind.KAFKA_ERROR: "Read the logs of the brokers and the bridges.",
    UnreadKind.UNREADABLE_RECORD: (
        'Run `sluice skip TOPIC:PARTITION:OFFSET --reason "…"` to skip a record that no client can read.'
    ),
    UnreadKind.STOPPED: "Follow the instruction in this sentence; the bridges then continue by themselves.",
    UnreadKind.UNASSIGNED: "Read the log of the bridges, and restart a bridge that reads no partition.",
}


def unread_problems(unread: Sequence[UnreadPartition], declared: DeclaredFacts) -> Iterator[Finding]:
    """Yields one finding per reason."""
    for group in group_unread(unread):
        kind = group[0].kind
        if kind is UnreadKind.NO_BRIDGE:
            yield warning(f"{describe_unread(group)}.", "Start a bridge: `sluice bridge`.")
        elif kind is not UnreadKind.PAUSED:  # reported by another rule
            is_ours = any(one.topic in declared.topics for one in group)
            yield graded(is_ours, f"{describe_unread(group).rstrip('.')}.", _ADVICE[kind])


def kafka_problems(
    kafka: KafkaFacts, postgres: PostgresFacts | None, declared: DeclaredFacts
) -> Iterator[Finding]:
    """Yields the facts that Kafka did not return, and partitions without a leader that no bridge reports."""
    for topic, reason in sorted(kafka.refused.items()):
        yield graded(
            topic in declared.topics,
            f"Kafka does not describe topic {topic}: {reason}.",
            "Grant the right to describe and read the topic, or read the logs of the brokers.",
        )
    for topic, operations in sorted(kafka.missing_rights.items()):
        yield graded(
            topic in declared.topics,
            f"The user of this command has no right to {' and '.join(operations)} on topic {topic}.",
            "Grant the right, if the processes use the same user.",
        )
    if kafka.group_refusal:
        yield error(f"{kafka.group_refusal}.", "Grant the right, if the bridges use the same user.")
    unknown = sorted(
        name
        for name, topic in kafka.topics.items()
        if None in (topic.cleanup_policy, topic.retention_ms, topic.min_insync_replicas)
    )
    if unknown:
        yield warning(
            f"Kafka does not return the settings of {', '.join(unknown)}: their retention is not checked.",
            "Grant the right DescribeConfigs on the topics to the role of this command.",
        )
    reported = {(one.topic, one.partition) for one in (postgres.unread if postgres else ())}
    for is_ours in (True, False):
        leaderless = [
            f"{name}[{number}]"
            for name, topic in sorted(kafka.topics.items())
            for number in topic.without_leader
            if declared.share.holds(number)
            and (name, number) not in reported
            and (name in declared.topics) == is_ours
        ]
        if leaderless:
            yield graded(
                is_ours,
                f"Partitions without a leader: {', '.join(leaderless)}.",
                _ADVICE[UnreadKind.NO_LEADER],
            )
