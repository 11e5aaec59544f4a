"""How far generations lag behind live: which lanes do, what one rebuild has to know, and who may run it."""

from collections.abc import Mapping
from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.projections.generations import SyncedGeneration


class LaneState(NamedTuple):
    """One lane of the current epoch: how far live and a generation are."""

    topic: str
    partition: int
    queue: str
    live: int
    generation: int


READ_LANE_STATES = Statement(
    "read_lane_states",
    """
    SELECT l.topic, l.partition, l.queue, l.applied_offset, coalesce(g.applied_offset, -1)
    FROM sluice.lane_progress l
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
    """Every lane that live has anything of, in one snapshot."""
    return [LaneState(*row) for row in session.run(READ_LANE_STATES, projection, generation)]


READ_LAGGING = Statement(
    "read_lagging",
    """
    SELECT DISTINCT g.projection, g.generation, l.topic, l.partition
    FROM sluice.generations g
    JOIN sluice.projections p ON p.projection = g.projection
        AND (p.live_generation <> g.generation OR g.state = 'resuming')
    CROSS JOIN sluice.lane_progress l
    JOIN sluice.topics t ON t.topic = l.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = l.epoch
    LEFT JOIN sluice.generation_lanes k
        ON k.projection = g.projection AND k.generation = g.generation
       AND k.topic = l.topic AND k.partition = l.partition AND k.queue = l.queue
    WHERE g.state IN ('building', 'ready', 'retired', 'resuming') AND NOT g.paused
      -- One that has met live everywhere is still to be made what it was.
      AND (coalesce(k.applied_offset, -1) < l.applied_offset OR g.state = 'resuming')
    ORDER BY 1, 2, 3, 4
    """,
)


def read_lagging(session: Session) -> list[tuple[str, int, str, int]]:
    """(projection, generation, topic, partition) of all that a rebuild task has to do."""
    return [tuple(row) for row in session.run(READ_LAGGING)]


NOTE_READY = Statement(
    "note_ready",
    """
    UPDATE sluice.generations g SET state = 'ready', ready_at = now()
    WHERE g.projection = $1 AND g.generation = $2 AND g.state = 'building' AND NOT EXISTS (
        SELECT FROM sluice.lane_progress l
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
    """The generation is `ready` if all its lanes have met live; whether that is news. May run twice."""
    return session.count(NOTE_READY, projection, generation) == 1


GIVE_LANES = Statement(
    "give_lanes",
    """
    INSERT INTO sluice.lane_progress (topic, partition, queue, epoch, applied_offset)
    SELECT p.topic, p.partition, e.entity || '.' || n, e.epoch, p.watermark - 1
    FROM sluice.partition_progress p
    JOIN sluice.topics t ON t.topic = p.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = p.epoch
    CROSS JOIN LATERAL generate_series(0, e.shards - 1) AS n
    WHERE p.watermark > 0
    ON CONFLICT (topic, partition, queue, epoch) DO NOTHING
    """,
)


def give_lanes(session: Session) -> None:
    """Every lane below a watermark has a row. Under the locks of all queues; may run twice.

    What lies below the watermark has its outcome, whatever lane it was in then: a generation has to read
    it in the lane it would be in now.
    """
    session.run(GIVE_LANES)


FOLLOW_LIVE = Statement(
    "follow_live",
    """
    INSERT INTO sluice.generation_lanes (projection, generation, topic, partition, queue, applied_offset)
    SELECT $1, $2, l.topic, l.partition, l.queue, l.applied_offset
    FROM sluice.lane_progress l
    JOIN sluice.topics t ON t.topic = l.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = l.epoch
    ON CONFLICT (projection, generation, topic, partition, queue)
        DO UPDATE SET applied_offset = excluded.applied_offset
    """,
    ("text", "int"),
)


def follow_live(session: Session, projection: str, generation: int) -> None:
    """A generation that was live until now is exactly where live is. Under the locks of all queues."""
    session.run(FOLLOW_LIVE, projection, generation)


class LaneOffsets(NamedTuple):
    """How far live and the generation have applied one lane."""

    live: int
    generation: int


class PartitionSnapshot(NamedTuple):
    """What a rebuild of one partition has to know, in one snapshot."""

    synced: SyncedGeneration
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
    SELECT g.state, g.revision, g.has_been_live, g.checkpoint IS NOT NULL, g.paused,
           g.rate IS NOT NULL, g.compacted_topics @> to_jsonb($3), t.topic_id, t.entity, e.epoch, e.shards,
           l.queue, l.applied_offset, coalesce(k.applied_offset, -1)
    FROM sluice.generations g
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
    synced = SyncedGeneration(projection, generation, first[0], first[1], first[2], from_checkpoint=first[3])
    return PartitionSnapshot._make([synced, *first[4:11], lanes])


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
