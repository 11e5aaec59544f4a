"""The rules of `sluice doctor` about partitions that no bridge reads and what Kafka does not report. Pure."""

from collections.abc import Iterator, Sequence

from sluice.admin.doctor.facts import DeclaredFacts, Finding, KafkaFacts, PostgresFacts, graded, warning
from sluice.db.delivery.unread_partitions import UnreadKind, UnreadPartition, describe_unread, group_unread

_ADVICE = {
    UnreadKind.NO_LEADER: "Start the brokers that hold its replicas, or look at the cluster's controller.",
    UnreadKind.NOT_AUTHORIZED: "Grant the right to the role that the bridges use.",
    UnreadKind.KAFKA_ERROR: "Look at the brokers' log, and at that of the bridges.",
    UnreadKind.UNREADABLE_RECORD: "`sluice skip` gets past a record that no client can read.",
    UnreadKind.STOPPED: "Do what the sentence names; the bridges go on by themselves afterwards.",
    UnreadKind.UNASSIGNED: "Look at the bridges' log, and restart a bridge that reads no partition.",
}


def unread_problems(unread: Sequence[UnreadPartition], declared: DeclaredFacts) -> Iterator[Finding]:
    """One finding per reason."""
    for group in group_unread(unread):
        kind = group[0].kind
        if kind is UnreadKind.NO_BRIDGE:
            yield warning(f"{describe_unread(group)}.", "Start a bridge: `sluice bridge`.")
        elif kind is not UnreadKind.PAUSED:  # has a finding of its own
            is_ours = any(one.topic in declared.topics for one in group)
            yield graded(is_ours, f"{describe_unread(group).rstrip('.')}.", _ADVICE[kind])


def kafka_problems(
    kafka: KafkaFacts, postgres: PostgresFacts | None, declared: DeclaredFacts
) -> Iterator[Finding]:
    """What Kafka did not give, and partitions without a leader that no bridge reports."""
    for topic, reason in sorted(kafka.refused.items()):
        yield graded(
            topic in declared.topics,
            f"Kafka gives no facts of topic {topic}: {reason}.",
            "Grant the right to describe and read it, or look at the brokers' log.",
        )
    unknown = sorted(
        name
        for name, topic in kafka.topics.items()
        if None in (topic.cleanup_policy, topic.retention_ms, topic.min_insync_replicas)
    )
    if unknown:
        yield warning(
            f"Kafka does not give the settings of {', '.join(unknown)}: their retention is not checked.",
            "Grant the right DescribeConfigs on the topics to the role of this command.",
        )
    reported = {(one.topic, one.partition) for one in (postgres.unread if postgres else ())}
    for is_ours in (True, False):
        leaderless = [
            f"{name}[{number}]"
            for name, topic in sorted(kafka.topics.items())
            for number in topic.without_leader
            if (name, number) not in reported and (name in declared.topics) == is_ours
        ]
        if leaderless:
            yield graded(
                is_ours,
                f"Partitions without a leader: {', '.join(leaderless)}.",
                _ADVICE[UnreadKind.NO_LEADER],
            )
