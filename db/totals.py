"""What checkers read: watermarks, topic ids and the counters summed over epochs."""

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
