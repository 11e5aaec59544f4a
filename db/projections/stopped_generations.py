"""Generations whose feeding is stopped, until they have caught up from the log."""

from sluice.db.connection import Session, Statement

STOP_GENERATION = Statement(
    "stop_generation",
    """
    UPDATE sluice.generations SET
        stopped_at = CASE WHEN state = 'resuming' THEN stopped_at ELSE now() END,
        state = 'stopped', failed_reason = $3
    WHERE projection = $1 AND generation = $2 AND state IN ('live', 'retired', 'resuming')
    """,
    ("text", "int", "text"),
)


def stop_generation(session: Session, projection: str, generation: int, reason: str) -> bool:
    """Stops the feeding of a generation that was live once. Returns True if its state changed.

    In the transaction that keeps the places of the queue's lanes, under the lock of that queue.
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
        -- How far the live one is, `lane_progress` says.
        DELETE FROM sluice.generation_lanes l USING ended e
        WHERE l.projection = e.projection AND l.generation = e.generation AND e.state = 'live'
    )
    SELECT count(*) FROM ended
    """,
    ("text", "int"),
)


def end_resuming(session: Session, projection: str, generation: int) -> bool:
    """Returns a generation to its state before it was stopped. Requires the locks of all queues.

    Returns True if its state changed. It must be where live is.
    """
    ((ended,),) = session.run(END_RESUMING, projection, generation)
    return bool(ended)
