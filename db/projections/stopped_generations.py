"""Stops generations, and resumes stopped generations, which then catch up from the log."""

from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.projections.live_lanes import LIVE_LANES, own_offset

STOP_GENERATION = Statement(
    "stop_generation",
    """
    WITH fed AS (
        SELECT projection, generation, state FROM sluice.generations
        WHERE projection = $1 AND generation = $2 AND state IN ('live', 'retired', 'resuming')
        FOR UPDATE
    ), lanes AS (
        -- If the generation is live, its rows here were written before the swap to it.
        DELETE FROM sluice.generation_offsets l USING fed f
        WHERE l.projection = f.projection AND l.generation = f.generation AND f.state = 'live'
    )
    UPDATE sluice.generations g SET
        stopped_at = CASE WHEN g.state = 'resuming' THEN g.stopped_at ELSE now() END,
        state = 'stopped', failed_reason = $3
    FROM fed f WHERE g.projection = f.projection AND g.generation = f.generation
    """,
    ("text", "int", "text"),
)


def stop_generation(session: Session, projection: str, generation: int, reason: str) -> bool:
    """Stops a generation that is or was live: it receives no more events. Returns True if its state changed.

    Call it under the queue's lock, in the transaction that stores the offsets of the queue's lanes.
    """
    return session.count(STOP_GENERATION, projection, generation, reason) == 1


END_RESUMING = Statement(
    "end_resuming",
    """
    WITH ended AS (
        UPDATE sluice.generations g SET
            state = CASE WHEN p.live_generation = g.generation THEN 'live' ELSE 'retired' END,
            failed_reason = NULL, stopped_at = NULL
        FROM sluice.projections p
        WHERE p.projection = g.projection AND g.projection = $1 AND g.generation = $2 AND g.state = 'resuming'
        RETURNING g.projection, g.generation, g.state
    ), lanes AS (
        -- The offsets of the live generation are in `lane_offsets`.
        DELETE FROM sluice.generation_offsets l USING ended e
        WHERE l.projection = e.projection AND l.generation = e.generation AND e.state = 'live'
    )
    SELECT count(*) FROM ended
    """,
    ("text", "int"),
)


def end_resuming(session: Session, projection: str, generation: int) -> bool:
    """Restores the state that a generation had before it was stopped. Requires the locks of all queues.

    Returns True if the state changed. The generation must have caught up with the live offsets.
    """
    ((ended,),) = session.run(END_RESUMING, projection, generation)
    return bool(ended)


BEGIN_RESUMING = Statement(
    "begin_resuming",
    """
    UPDATE sluice.generations SET state = 'resuming', failed_reason = NULL
    WHERE projection = $1 AND generation = $2 AND state = 'stopped' AND stopped_at IS NOT NULL
    """,
    ("text", "int"),
)


def begin_resuming(session: Session, projection: str, generation: int) -> bool:
    """Allows a stopped generation to catch up from the log. Requires the locks of all queues.

    Returns True if the state changed. The offsets of all lanes of the generation must be stored.
    """
    return session.count(BEGIN_RESUMING, projection, generation) == 1


class StoppedPlace(NamedTuple):
    """The lowest offset of a lane up to which a stopped generation has received events, per partition."""

    projection: str
    generation: int
    topic: str
    partition: int
    applied_offset: int


# A lane without a row has the live offset. Then `own` is NULL.
READ_STOPPED_PLACES = Statement(
    "read_stopped_places",
    f"""
    WITH RECURSIVE {LIVE_LANES}, own AS (
        SELECT g.projection, g.generation, live.*, {own_offset("g.projection", "g.generation", "live")} AS own
        FROM sluice.generations g CROSS JOIN live
        WHERE g.state IN ('stopped', 'resuming') AND g.stopped_at IS NOT NULL
    )
    SELECT projection, generation, topic, partition, min(own) FROM own WHERE own < applied_offset
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    """,
)


def read_stopped_places(session: Session) -> list[StoppedPlace]:
    """Returns the partitions in which stopped generations lack events that workers applied."""
    return [StoppedPlace(*row) for row in session.run(READ_STOPPED_PLACES)]
