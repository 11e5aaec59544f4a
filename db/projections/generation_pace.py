"""The rate of a rebuild."""

from sluice.db.connection import Session, Statement

SET_PACE = Statement(
    "set_generation_pace",
    "UPDATE sluice.generations SET paused = $3, rate = $4 WHERE projection = $1 AND generation = $2",
    ("text", "int", "boolean", "int"),
)


def set_pace(session: Session, projection: str, generation: int, *, paused: bool, rate: int | None) -> None:
    """Pauses or continues a rebuild, and sets its limit in events per second (None: no limit). Idempotent."""
    session.run(SET_PACE, projection, generation, paused, rate)


# All tasks of a rebuild share its limit, so all of them update the same row.
TAKE_PACE = Statement(
    "take_generation_pace",
    """
    UPDATE sluice.generations
    SET paced_until = greatest(paced_until, now()) + make_interval(secs => $3 / rate::float8)
    WHERE projection = $1 AND generation = $2 AND rate > 0
    RETURNING extract(epoch FROM paced_until - now())::float8
    """,
    ("text", "int", "int"),
)


def take_pace(session: Session, projection: str, generation: int, events: int) -> float:
    """Returns the seconds to wait after this number of events, so that all tasks together keep the limit."""
    rows = session.run(TAKE_PACE, projection, generation, events)
    return float(rows[0][0]) if rows else 0.0
