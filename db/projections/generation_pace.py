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


# All tasks of a rebuild share its limit, so all of them change the same row. It is found as the newest entry
# of the index, and by its complete key, so that no version is read that an old snapshot keeps.
LOCK_PACE = Statement(
    "lock_generation_pace",
    """
    SELECT paced_until FROM sluice.generation_paces WHERE projection = $1 AND generation = $2
    ORDER BY paced_until DESC LIMIT 1 FOR UPDATE
    """,
    ("text", "int"),
)
TAKE_PACE = Statement(
    "take_generation_pace",
    """
    WITH taken AS MATERIALIZED (
        SELECT greatest($3, now()) + make_interval(secs => $4 / rate::float8) AS paced_until
        FROM sluice.generations WHERE projection = $1 AND generation = $2 AND rate > 0
    ), moved AS (
        UPDATE sluice.generation_paces SET paced_until = (SELECT paced_until FROM taken)
        WHERE projection = $1 AND generation = $2 AND paced_until = $3 AND EXISTS (SELECT FROM taken)
    ), begun AS (
        INSERT INTO sluice.generation_paces (projection, generation, paced_until)
        SELECT $1, $2, paced_until FROM taken WHERE $3 IS NULL
        ON CONFLICT DO NOTHING
    )
    SELECT extract(epoch FROM paced_until - now())::float8 FROM taken
    """,
    ("text", "int", "timestamptz", "int"),
)


def take_pace(session: Session, projection: str, generation: int, events: int) -> float:
    """Returns the seconds to wait after this number of events, so that all tasks together keep the limit.

    Two tasks that take the first pace of a generation at the same time wait as if each were alone.
    """
    with session.transaction():
        rows = session.run(LOCK_PACE, projection, generation)
        until = rows[0][0] if rows else None
        taken = session.run(TAKE_PACE, projection, generation, until, events)
    return float(taken[0][0]) if taken else 0.0
