"""The lag of generations: lagging lanes, and the snapshot and the lock of a rebuild."""

from collections.abc import Mapping
from typing import NamedTuple

from sluice.db.advisory_locks import LockPurpose, lock_text
from sluice.db.connection import Session, Statement
from sluice.db.projections.generations import SyncedGeneration


class LaneState(NamedTuple):
    """One lane of the current epoch, with the offsets of the live generation and of another generation."""

    topic: str
    partition: int
    queue: str
    live: int
    generation: int


READ_LANE_STATES = Statement(
    "read_lane_states",
    """
    SELECT l.topic, l.partition, l.queue, l.applied_offset, coalesce(g.applied_offset, -1)
    FROM sluice.lane_offsets l
    JOIN sluice.topics t ON t.topic = l.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = l.epoch
    LEFT JOIN sluice.generation_lanes g
        ON g.projection = $1 AND g.generation = $2
       AND g.topic = l.topic AND g.partition = l.partition AND g.queue = l.queue
    ORDER BY l.topic, l.partition, l.queue
    """,
    ("text", "int"),
)


def read_lane_states(session: Session, projection: str, generation: int) -> list[LaneState]:
    """Returns all lanes of which workers have applied records, in one snapshot."""
    return [LaneState(*row) for row in session.run(READ_LANE_STATES, projection, generation)]


READ_LAGGING = Statement(
    "read_lagging",
    """
    SELECT DISTINCT g.projection, g.generation, l.topic, l.partition
    FROM sluice.generations g
    JOIN sluice.projections p ON p.projection = g.projection
        AND (p.live_generation <> g.generation OR g.state = 'resuming')
    CROSS JOIN sluice.lane_offsets l
    JOIN sluice.topics t ON t.topic = l.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = l.epoch
    LEFT JOIN sluice.generation_lanes k
        ON k.projection = g.projection AND k.generation = g.generation
       AND k.topic = l.topic AND k.partition = l.partition AND k.queue = l.queue
    WHERE g.state IN ('building', 'ready', 'retired', 'resuming') AND NOT g.paused
      -- A turn is also needed to end `resuming` when the generation has caught up in all lanes.
      AND (coalesce(k.applied_offset, -1) < l.applied_offset OR g.state = 'resuming')
    ORDER BY 1, 2, 3, 4
    """,
)


def read_lagging(session: Session) -> list[tuple[str, int, str, int]]:
    """Returns (projection, generation, topic, partition) of partitions that need a turn of a rebuild."""
    return [tuple(row) for row in session.run(READ_LAGGING)]


NOTE_READY = Statement(
    "note_ready",
    """
    UPDATE sluice.generations g SET state = 'ready', ready_at = now()
    WHERE g.projection = $1 AND g.generation = $2 AND g.state = 'building' AND NOT EXISTS (
        SELECT FROM sluice.lane_offsets l
        JOIN sluice.topics t ON t.topic = l.topic
        JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = l.epoch
        LEFT JOIN sluice.generation_lanes k
            ON k.projection = $1 AND k.generation = $2
           AND k.topic = l.topic AND k.partition = l.partition AND k.queue = l.queue
        WHERE coalesce(k.applied_offset, -1) < l.applied_offset
    )
    """,
    ("text", "int"),
)


def note_ready(session: Session, projection: str, generation: int) -> bool:
    """Marks a generation as `ready` if all its lanes have caught up. Returns True if its state changed.

    Idempotent.
    """
    return session.count(NOTE_READY, projection, generation) == 1


GIVE_LANES = Statement(
    "give_lanes",
    """
    INSERT INTO sluice.lane_offsets (topic, partition, queue, epoch, applied_offset)
    SELECT p.topic, p.partition, e.entity || '.' || n, e.epoch, p.watermark - 1
    FROM sluice.partition_watermarks p
    JOIN sluice.topics t ON t.topic = p.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = p.epoch
    CROSS JOIN LATERAL generate_series(0, e.shards - 1) AS n
    WHERE p.watermark > 0 AND NOT EXISTS (
        SELECT FROM sluice.lane_offsets l
        WHERE l.queue = e.entity || '.' || n AND l.epoch = e.epoch
          AND l.topic = p.topic AND l.partition = p.partition
    )
    """,
)


def give_lanes(session: Session) -> None:
    """Inserts missing rows of lanes, with the watermark as offset. Idempotent.

    Requires the locks of all queues. All records below the watermark have outcomes, even if they were applied
    in another lane of an earlier epoch. A generation reads them in their present lane.
    """
    session.run(GIVE_LANES)


FOLLOW_LIVE = Statement(
    "follow_live",
    """
    INSERT INTO sluice.generation_lanes (projection, generation, topic, partition, queue, applied_offset)
    SELECT $1, $2, l.topic, l.partition, l.queue, l.applied_offset
    FROM sluice.lane_offsets l
    JOIN sluice.topics t ON t.topic = l.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = l.epoch
    ON CONFLICT (projection, generation, topic, partition, queue)
        DO UPDATE SET applied_offset = excluded.applied_offset
    """,
    ("text", "int"),
)


def follow_live(session: Session, projection: str, generation: int) -> None:
    """Sets the offsets of a generation that was live to the live offsets.

    Requires the locks of all queues.
    """
    session.run(FOLLOW_LIVE, projection, generation)


class LaneOffsets(NamedTuple):
    """The applied offsets of the live generation and of this generation in one lane."""

    live: int
    generation: int


class PartitionSnapshot(NamedTuple):
    """The state that a rebuild of one partition needs, in one snapshot."""

    synced: SyncedGeneration
    paused: bool
    is_paced: bool
    is_compacted: bool
    topic_id: str
    entity: str
    epoch: int
    shards: int
    lanes: Mapping[str, LaneOffsets]
    """Queue → the lane of this partition and the queue, if workers have applied records of the lane."""


READ_PARTITION = Statement(
    "read_rebuilt_partition",
    """
    SELECT g.state, g.revision, g.has_been_live, g.checkpoint IS NOT NULL, g.paused,
           g.rate IS NOT NULL, g.compacted_topics @> to_jsonb($3), t.topic_id, t.entity, e.epoch, e.shards,
           l.queue, l.applied_offset, coalesce(k.applied_offset, -1)
    FROM sluice.generations g
    JOIN sluice.topics t ON t.topic = $3
    JOIN sluice.entities e ON e.entity = t.entity
    LEFT JOIN sluice.lane_offsets l ON l.topic = $3 AND l.partition = $4 AND l.epoch = e.epoch
    LEFT JOIN sluice.generation_lanes k
        ON k.projection = $1 AND k.generation = $2 AND k.topic = $3 AND k.partition = $4 AND k.queue = l.queue
    WHERE g.projection = $1 AND g.generation = $2
    """,
    ("text", "int", "text", "int"),
)


def read_partition(
    session: Session, projection: str, generation: int, topic: str, partition: int
) -> PartitionSnapshot | None:
    """Returns the state of a partition; None if the generation or the topic is unknown."""
    rows = session.run(READ_PARTITION, projection, generation, topic, partition)
    if not rows:
        return None
    first = rows[0]
    lanes = {row[11]: LaneOffsets(*row[12:]) for row in rows if row[11] is not None}
    synced = SyncedGeneration(projection, generation, first[0], first[1], first[2], from_checkpoint=first[3])
    return PartitionSnapshot._make([synced, *first[4:11], lanes])


_REBUILD = f"hashtext({lock_text(LockPurpose.REBUILD, ' ')} || $1), $2"
TRY_REBUILD = Statement("try_rebuild", f"SELECT pg_try_advisory_lock({_REBUILD})", ("text", "int"))
END_REBUILD = Statement("end_rebuild", f"SELECT pg_advisory_unlock({_REBUILD})", ("text", "int"))


def try_rebuild(session: Session, what: str, partition: int) -> bool:
    """Locks a partition until `end_rebuild` or the end of the session. Returns True if it was free."""
    ((held,),) = session.run(TRY_REBUILD, what, partition)
    return bool(held)


def end_rebuild(session: Session, what: str, partition: int) -> None:
    """Releases the lock of the partition."""
    session.run(END_REBUILD, what, partition)
