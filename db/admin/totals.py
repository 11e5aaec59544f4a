"""Reads watermarks, topic ids, queues, and sums of counters, for checkers and `sluice status`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sluice.db.apply.guard import COUNTERS
from sluice.db.connection import Session, Statement
from sluice.db.delivery.progress import ONE_SNAPSHOT
from sluice.db.schema import OUTCOMES
from sluice.runtime.place import Place

READ_POSITIONS = Statement(
    "read_positions", "SELECT topic, partition, watermark FROM sluice.partition_watermarks"
)


def read_positions(session: Session) -> dict[tuple[str, int], int]:
    """Returns (topic, partition) → watermark."""
    return {(topic, partition): mark for topic, partition, mark in session.run(READ_POSITIONS)}


READ_TOPIC_IDS = Statement("read_topic_ids", "SELECT topic, topic_id FROM sluice.topics")


def read_topic_ids(session: Session) -> dict[str, str]:
    """Returns topic → Kafka's topic id."""
    return dict(session.run(READ_TOPIC_IDS))


READ_OUTGOING = Statement(
    "read_outgoing", "SELECT topic, key, event_id FROM sluice.outbox_events ORDER BY queue, id"
)


def read_outgoing(session: Session) -> list[tuple[Any, ...]]:
    """Returns (topic, key, event id) of all waiting outgoing events, in order per queue."""
    return session.run(READ_OUTGOING)


READ_EFFECT_KEYS = Statement("read_effect_keys", "SELECT effect_key FROM sluice.executed_side_effects")


def read_effect_keys(session: Session) -> set[str]:
    """Returns the keys of all calls in all states."""
    return {key for (key,) in session.run(READ_EFFECT_KEYS)}


READ_CALL_STATES = Statement(
    "read_call_states",
    "SELECT effect, state, count(*) FROM sluice.executed_side_effects GROUP BY effect, state ORDER BY 1, 2",
)


def read_call_states(session: Session) -> list[tuple[str, str, int]]:
    """Returns (effect, state, number of calls)."""
    return [(effect, state, count) for effect, state, count in session.run(READ_CALL_STATES)]


_SUMS = ", ".join(f"sum({name})::bigint" for name in COUNTERS)

READ_TOTALS = Statement(
    "read_totals", f"SELECT topic, {_SUMS} FROM sluice.lane_offsets GROUP BY topic ORDER BY topic"
)


def read_totals(session: Session) -> list[tuple[str, str, int]]:
    """Returns (topic, outcome, records), summed over all epochs. Omits counters that are not outcomes."""
    return [
        (topic, name, count)
        for topic, *counts in session.run(READ_TOTALS)
        for name, count in zip(COUNTERS, counts, strict=True)
        if name in OUTCOMES
    ]


@dataclass
class PartitionTotals:
    """One stored partition. `counted` is the sum of its outcomes over all epochs."""

    entity: str
    shards: int
    watermark: int
    counted: int = 0
    applied: dict[str, int] = field(default_factory=dict)
    """Queue → applied offset of its lane in the current epoch."""
    read_again: bool = False
    """True if lanes of an older epoch were ahead of the watermark. Then their records are read again."""


READ_PARTITIONS = Statement(
    "read_partitions",
    """
    SELECT p.topic, p.partition, t.entity, e.shards, p.watermark
    FROM sluice.partition_watermarks p
    JOIN sluice.topics t ON t.topic = p.topic
    JOIN sluice.entities e ON e.entity = t.entity
    ORDER BY p.topic, p.partition
    """,
)
READ_LANE_TOTALS = Statement(
    "read_lane_totals",
    f"""
    SELECT l.topic, l.partition, l.queue, l.applied_offset, l.epoch = e.epoch, ({" + ".join(OUTCOMES)})
    FROM sluice.lane_offsets l
    JOIN sluice.topics t ON t.topic = l.topic
    JOIN sluice.entities e ON e.entity = t.entity
    ORDER BY l.topic, l.partition, l.queue, l.epoch
    """,
)


def read_partition_totals(session: Session) -> Mapping[Place, PartitionTotals]:
    """Returns all partitions that a bridge has started, in one snapshot."""
    with session.transaction(f"{ONE_SNAPSHOT} READ ONLY"):
        found = {
            (topic, partition): PartitionTotals(*state)
            for topic, partition, *state in session.run(READ_PARTITIONS)
        }
        for topic, partition, queue, offset, current, counted in session.run(READ_LANE_TOTALS):
            totals = found.get((topic, partition))
            if totals is None:
                continue
            totals.counted += counted
            if current:
                totals.applied[queue] = offset
            elif offset >= totals.watermark:
                totals.read_again = True
        return found


@dataclass(frozen=True)
class QueueState:
    """The entity type of a queue. If the queue is halted, also the reason and the time."""

    entity: str
    halted_reason: str | None = None
    halted_at: datetime | None = None


@dataclass(frozen=True)
class ProgressRead:
    """A snapshot of the applied records."""

    topics: frozenset[str]
    watermarks: Mapping[tuple[str, int], int]
    queues: Mapping[str, QueueState]
    counters: Mapping[tuple[str, str], Mapping[str, int]]
    """(topic, queue) → counter → records."""


READ_QUEUES = Statement(
    "read_queues", "SELECT queue, entity, halted_reason, halted_at FROM sluice.queues ORDER BY queue"
)


def read_queues(session: Session) -> dict[str, QueueState]:
    """Returns all queues of all entity types."""
    return {queue: QueueState(*state) for queue, *state in session.run(READ_QUEUES)}


READ_COUNTERS = Statement(
    "read_counters",
    f"SELECT topic, queue, {_SUMS} FROM sluice.lane_offsets GROUP BY topic, queue ORDER BY topic, queue",
)


def read_counters(session: Session) -> dict[tuple[str, str], dict[str, int]]:
    """Returns (topic, queue) → counter → records, summed over all epochs."""
    return {
        (topic, queue): dict(zip(COUNTERS, counts, strict=True))
        for topic, queue, *counts in session.run(READ_COUNTERS)
    }


def read_progress(session: Session) -> ProgressRead:
    """Returns all progress from one snapshot, so that counters and watermarks agree."""
    with session.transaction(f"{ONE_SNAPSHOT} READ ONLY"):
        return ProgressRead(
            topics=frozenset(read_topic_ids(session)),
            watermarks=read_positions(session),
            queues=read_queues(session),
            counters=read_counters(session),
        )
