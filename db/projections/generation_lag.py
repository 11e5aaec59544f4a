"""Where live is and where generations are: who lags, who has met live, who begins or stands exactly there."""

from typing import NamedTuple

from sluice.db.connection import Session, Statement


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
    JOIN sluice.projections p ON p.projection = g.projection AND p.live_generation <> g.generation
    CROSS JOIN sluice.lane_progress l
    JOIN sluice.topics t ON t.topic = l.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = l.epoch
    LEFT JOIN sluice.generation_lanes k
        ON k.projection = g.projection AND k.generation = g.generation
       AND k.topic = l.topic AND k.partition = l.partition AND k.queue = l.queue
    WHERE g.state IN ('building', 'ready', 'retired') AND NOT g.paused
      AND coalesce(k.applied_offset, -1) < l.applied_offset
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
