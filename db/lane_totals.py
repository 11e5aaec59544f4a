"""What `sluice verify` compares with the log: how far a partition is applied, and its sum of outcomes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from db.progress import ONE_SNAPSHOT, Place
from db.schema import OUTCOMES
from db.session import Session, Statement


@dataclass
class PartitionTotals:
    """One partition as Postgres has it. `counted` is the sum of its outcomes, over all epochs."""

    entity: str
    shards: int
    watermark: int
    counted: int = 0
    applied: dict[str, int] = field(default_factory=dict)
    """Queue → applied offset, of the lanes of the current epoch."""
    read_again: bool = False
    """Whether lanes of an older epoch were ahead of the watermark: their records come once more."""


READ_PARTITIONS = Statement(
    "read_partitions",
    """
    SELECT p.topic, p.partition, t.entity, e.shards, p.watermark
    FROM sluice.partition_progress p
    JOIN sluice.topics t ON t.topic = p.topic
    JOIN sluice.entities e ON e.entity = t.entity
    ORDER BY p.topic, p.partition
    """,
)
READ_LANE_TOTALS = Statement(
    "read_lane_totals",
    f"""
    SELECT l.topic, l.partition, l.queue, l.applied_offset, l.epoch = e.epoch, ({" + ".join(OUTCOMES)})
    FROM sluice.lane_progress l
    JOIN sluice.topics t ON t.topic = l.topic
    JOIN sluice.entities e ON e.entity = t.entity
    ORDER BY l.topic, l.partition, l.queue, l.epoch
    """,
)


def read_partition_totals(session: Session) -> Mapping[Place, PartitionTotals]:
    """All partitions that a bridge has begun, as of one moment."""
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
