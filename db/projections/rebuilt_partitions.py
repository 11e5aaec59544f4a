"""What a rebuild of one partition has to know, and the lock that makes it the only one there."""

from collections.abc import Mapping
from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.projections.generations import SyncedGeneration


class LaneOffsets(NamedTuple):
    """How far live and the generation have applied one lane."""

    live: int
    generation: int


class PartitionSnapshot(NamedTuple):
    """What a rebuild of one partition has to know, in one snapshot."""

    synced: SyncedGeneration
    is_live: bool
    paused: bool
    is_paced: bool
    is_compacted: bool
    topic_id: str
    entity: str
    epoch: int
    shards: int
    lanes: Mapping[str, LaneOffsets]
    """Queue → its lane of this partition; those that live has anything of."""


READ_PARTITION = Statement(
    "read_rebuilt_partition",
    """
    SELECT g.state, g.revision, g.has_been_live, p.live_generation = g.generation, g.paused,
           g.rate IS NOT NULL, g.compacted_topics @> to_jsonb($3), t.topic_id, t.entity, e.epoch, e.shards,
           l.queue, l.applied_offset, coalesce(k.applied_offset, -1)
    FROM sluice.generations g
    JOIN sluice.projections p ON p.projection = g.projection
    JOIN sluice.topics t ON t.topic = $3
    JOIN sluice.entities e ON e.entity = t.entity
    LEFT JOIN sluice.lane_progress l ON l.topic = $3 AND l.partition = $4 AND l.epoch = e.epoch
    LEFT JOIN sluice.generation_lanes k
        ON k.projection = $1 AND k.generation = $2 AND k.topic = $3 AND k.partition = $4 AND k.queue = l.queue
    WHERE g.projection = $1 AND g.generation = $2
    """,
    ("text", "int", "text", "int"),
)


def read_partition(
    session: Session, projection: str, generation: int, topic: str, partition: int
) -> PartitionSnapshot | None:
    """None: there is no such generation, or no such topic."""
    rows = session.run(READ_PARTITION, projection, generation, topic, partition)
    if not rows:
        return None
    first = rows[0]
    lanes = {row[11]: LaneOffsets(*row[12:]) for row in rows if row[11] is not None}
    return PartitionSnapshot._make(
        [SyncedGeneration(projection, generation, *first[:3]), *first[3:11], lanes]
    )


TRY_REBUILD = Statement(
    "try_rebuild", "SELECT pg_try_advisory_lock(hashtext('sluice rebuild ' || $1), $2)", ("text", "int")
)
END_REBUILD = Statement(
    "end_rebuild", "SELECT pg_advisory_unlock(hashtext('sluice rebuild ' || $1), $2)", ("text", "int")
)


def try_rebuild(session: Session, what: str, partition: int) -> bool:
    """Whether this session is the only one at this partition; until `end_rebuild`, or until it ends."""
    ((held,),) = session.run(TRY_REBUILD, what, partition)
    return bool(held)


def end_rebuild(session: Session, what: str, partition: int) -> None:
    """Lets others at the partition."""
    session.run(END_REBUILD, what, partition)
