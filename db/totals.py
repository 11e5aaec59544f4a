"""What checkers read: watermarks, topic ids and the counters summed over epochs."""

from typing import Any

from db.guard import COUNTERS
from db.schema import OUTCOMES
from db.session import Session, Statement

READ_POSITIONS = Statement(
    "read_positions", "SELECT topic, partition, watermark FROM sluice.partition_progress"
)


def read_positions(session: Session) -> dict[tuple[str, int], int]:
    """(topic, partition) → watermark."""
    return {(topic, partition): mark for topic, partition, mark in session.run(READ_POSITIONS)}


READ_TOPIC_IDS = Statement("read_topic_ids", "SELECT topic, topic_id FROM sluice.topics")


def read_topic_ids(session: Session) -> dict[str, str]:
    """topic → Kafka's id of it."""
    return dict(session.run(READ_TOPIC_IDS))


READ_OUTGOING = Statement(
    "read_outgoing", "SELECT topic, key, event_id FROM sluice.outbox_events ORDER BY queue, id"
)


def read_outgoing(session: Session) -> list[tuple[Any, ...]]:
    """(topic, key, event id) of every outgoing event that waits, per queue in order."""
    return session.run(READ_OUTGOING)


READ_EFFECT_KEYS = Statement("read_effect_keys", "SELECT effect_key FROM sluice.executed_side_effects")


def read_effect_keys(session: Session) -> set[str]:
    """The keys of all calls, whatever their state."""
    return {key for (key,) in session.run(READ_EFFECT_KEYS)}


READ_CALL_STATES = Statement(
    "read_call_states",
    "SELECT effect, state, count(*) FROM sluice.executed_side_effects GROUP BY effect, state ORDER BY 1, 2",
)


def read_call_states(session: Session) -> list[tuple[str, str, int]]:
    """(effect, state, calls)."""
    return [(effect, state, count) for effect, state, count in session.run(READ_CALL_STATES)]


_SUMS = ", ".join(f"sum({name})::bigint" for name in COUNTERS)

READ_TOTALS = Statement(
    "read_totals", f"SELECT topic, {_SUMS} FROM sluice.lane_progress GROUP BY topic ORDER BY topic"
)


def read_totals(session: Session) -> list[tuple[str, str, int]]:
    """(topic, outcome, records), over all epochs; call conflicts, which are no outcome, left out."""
    return [
        (topic, name, count)
        for topic, *counts in session.run(READ_TOTALS)
        for name, count in zip(COUNTERS, counts, strict=True)
        if name in OUTCOMES
    ]
