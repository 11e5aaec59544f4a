"""The lag of generations: lagging lanes, and the snapshot and the lock of a rebuild."""

from collections.abc import Mapping
from typing import NamedTuple

from sluice.db.advisory_locks import LockPurpose, lock_text
from sluice.db.connection import Session, Statement
from sluice.db.projections.generation_lanes import keep_live_places
from sluice.db.projections.generations import SyncedGeneration
from sluice.db.projections.live_lanes import LIVE_LANES, live_lanes, own_offset


class LaneState(NamedTuple):
    """One lane of the current epoch, with the offsets of the live generation and of another generation."""

    topic: str
    partition: int
    queue: str
    live: int
    generation: int


READ_LANE_STATES = Statement(
    "read_lane_states",
    f"""
    WITH RECURSIVE {LIVE_LANES}
    SELECT topic, partition, queue, applied_offset, coalesce({own_offset("$1", "$2", "live")}, -1)
    FROM live ORDER BY topic, partition, queue
    """,
    ("text", "int"),
)


def read_lane_states(session: Session, projection: str, generation: int) -> list[LaneState]:
    """Returns all lanes of which workers have applied records, in one snapshot."""
    return [LaneState(*row) for row in session.run(READ_LANE_STATES, projection, generation)]


READ_LAGGING = Statement(
    "read_lagging",
    f"""
    WITH RECURSIVE filled AS MATERIALIZED (
        SELECT g.projection, g.generation, g.state FROM sluice.generations g
        JOIN sluice.projections p ON p.projection = g.projection
            AND (p.live_generation <> g.generation OR g.state = 'resuming')
        WHERE g.state IN ('building', 'ready', 'retired', 'resuming') AND NOT g.paused
    ), {live_lanes("EXISTS (SELECT FROM filled)")}
    SELECT DISTINCT g.projection, g.generation, live.topic, live.partition
    FROM filled g CROSS JOIN live
    -- A turn is also needed to end `resuming` when the generation has caught up in all lanes.
    WHERE g.state = 'resuming'
       OR coalesce({own_offset("g.projection", "g.generation", "live")}, -1) < live.applied_offset
    ORDER BY 1, 2, 3, 4
    """,
)


def read_lagging(session: Session) -> list[tuple[str, int, str, int]]:
    """Returns (projection, generation, topic, partition) of partitions that need a turn of a rebuild.

    It is read every second. With QUEUE_PLANS, the session does not read old versions of lanes.
    """
    return [tuple(row) for row in session.run(READ_LAGGING)]


NOTE_READY = Statement(
    "note_ready",
    f"""
    WITH RECURSIVE {LIVE_LANES}
    UPDATE sluice.generations g SET state = 'ready', ready_at = now()
    WHERE g.projection = $1 AND g.generation = $2 AND g.state = 'building' AND NOT EXISTS (
        SELECT FROM live WHERE coalesce({own_offset("$1", "$2", "live")}, -1) < live.applied_offset
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
    f"""
    WITH RECURSIVE {LIVE_LANES}
    UPDATE sluice.generation_offsets k SET applied_offset = live.applied_offset FROM live
    WHERE k.projection = $1 AND k.generation = $2
      AND k.topic = live.topic AND k.partition = live.partition AND k.queue = live.queue
    """,
    ("text", "int"),
)


def follow_live(session: Session, projection: str, generation: int) -> None:
    """Sets the offsets of a generation that was live to the live offsets.

    Requires the locks of all queues.
    """
    session.run(FOLLOW_LIVE, projection, generation)
    keep_live_places(session, projection, generation, None)


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
    f"""
    SELECT g.state, g.revision, g.has_been_live, g.checkpoint IS NOT NULL, g.paused,
           g.rate IS NOT NULL, g.compacted_topics @> to_jsonb($3), t.topic_id, t.entity, e.epoch, e.shards,
           l.queue, l.applied_offset, coalesce({own_offset("$1", "$2", "l")}, -1)
    FROM sluice.generations g
    JOIN sluice.topics t ON t.topic = $3
    JOIN sluice.entities e ON e.entity = t.entity
    LEFT JOIN LATERAL (
        SELECT o.* FROM sluice.queues q CROSS JOIN LATERAL (
            SELECT o.topic, o.partition, o.queue, o.applied_offset FROM sluice.lane_offsets o
            WHERE o.queue = q.queue AND o.epoch = e.epoch AND o.topic = $3 AND o.partition = $4
            ORDER BY o.applied_offset DESC LIMIT 1
        ) o
        WHERE q.entity = e.entity
    ) l ON true
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
