"""`projections` and `generations`: which generation readers see, and which others are kept in sync."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.records import GenerationState
from sluice.db.tables import generation_name


class SyncedGeneration(NamedTuple):
    """A generation that is not live and is kept up with it."""

    projection: str
    generation: int
    state: str
    revision: int
    has_been_live: bool

    @property
    def table(self) -> str:
        """The table of its rows."""
        return generation_name(self.projection, self.generation)

    def takes(self, revision: int | None) -> bool:
        """Whether code of this revision may write it: until it was live, only the one it was begun with."""
        return self.has_been_live or revision == self.revision


@dataclass(frozen=True)
class ProjectionSnapshot:
    """All projections as of now: the live generation of each, and those kept in sync, in a fixed order."""

    live: Mapping[str, int]
    synced: Sequence[SyncedGeneration]
    live_revisions: Mapping[str, int]
    """Projection → the revision that its live generation was begun with."""


NO_PROJECTIONS = ProjectionSnapshot({}, (), {})

READ_PROJECTION_SNAPSHOT = Statement(
    "read_projection_snapshot",
    """
    SELECT p.projection, p.live_generation, g.generation, g.state, g.revision, g.has_been_live
    FROM sluice.projections p
    JOIN sluice.generations g ON g.projection = p.projection AND g.state <> 'failed'
    ORDER BY p.projection, g.generation
    """,
)


def read_projection_snapshot(session: Session) -> ProjectionSnapshot:
    """What counts until a queue's lock is let go, if it is held: a swap takes the locks of all queues."""
    rows = session.run(READ_PROJECTION_SNAPSHOT)
    return ProjectionSnapshot(
        {row[0]: row[1] for row in rows},
        [SyncedGeneration(row[0], *row[2:]) for row in rows if row[2] != row[1]],
        {row[0]: row[4] for row in rows if row[2] == row[1]},
    )


class Generation(NamedTuple):
    """One generation, as an operator sees it."""

    projection: str
    generation: int
    state: str
    revision: int
    has_been_live: bool
    paused: bool
    rate: int | None
    compacted_topics: list[str]
    failed_reason: str | None
    created_at: datetime
    ready_at: datetime | None
    live_at: datetime | None

    @property
    def table(self) -> str:
        """The table of its rows."""
        return generation_name(self.projection, self.generation)


_GENERATION_COLUMNS = ", ".join(Generation._fields)

READ_GENERATIONS = Statement(
    "read_generations",
    f"""
    SELECT {_GENERATION_COLUMNS} FROM sluice.generations
    WHERE $1 IS NULL OR projection = $1
    ORDER BY projection, generation
    """,
    ("text",),
)


def read_generations(session: Session, projection: str | None = None) -> list[Generation]:
    """The generations there are, of one projection or of all, oldest first."""
    return [Generation(*row) for row in session.run(READ_GENERATIONS, projection)]


LOCK_PROJECTION = Statement(
    "lock_projection",
    "SELECT live_generation FROM sluice.projections WHERE projection = $1 FOR UPDATE",
    ("text",),
)


def lock_projection(session: Session, projection: str) -> int | None:
    """Orders what operators do to one projection; its live generation, None: there is no such row."""
    rows = session.run(LOCK_PROJECTION, projection)
    return int(rows[0][0]) if rows else None


NUMBER_GENERATION = Statement(
    "number_generation",
    """
    UPDATE sluice.projections SET newest_generation = newest_generation + 1
    WHERE projection = $1 RETURNING newest_generation
    """,
    ("text",),
)


def number_generation(session: Session, projection: str) -> int:
    """The number of a new generation; each is given once, whatever becomes of it."""
    ((number,),) = session.run(NUMBER_GENERATION, projection)
    return int(number)


BEGIN_GENERATION = Statement(
    "begin_generation",
    """
    INSERT INTO sluice.generations (projection, generation, state, revision, rate, compacted_topics)
    VALUES ($1, $2, 'building', $3, $4, $5)
    """,
    ("text", "int", "int", "int", "jsonb"),
)


def begin_generation(
    session: Session,
    projection: str,
    generation: int,
    *,
    revision: int,
    rate: int | None,
    compacted_topics: str,
) -> None:
    """It is `building` from now on, and kept in sync. `compacted_topics`: a JSON array."""
    session.run(BEGIN_GENERATION, projection, generation, revision, rate, compacted_topics)


SET_STATE = Statement(
    "set_generation_state",
    """
    UPDATE sluice.generations SET
        state = $3,
        ready_at = CASE WHEN $3 = 'ready' THEN now() ELSE ready_at END,
        live_at = CASE WHEN $3 = 'live' THEN now() ELSE live_at END,
        has_been_live = has_been_live OR $3 = 'live'
    WHERE projection = $1 AND generation = $2
    """,
    ("text", "int", "text"),
)


def set_state(session: Session, projection: str, generation: int, state: GenerationState) -> None:
    """The generation is in this state now."""
    session.run(SET_STATE, projection, generation, state)


FAIL_GENERATION = Statement(
    "fail_generation",
    """
    UPDATE sluice.generations SET state = 'failed', failed_reason = $3
    WHERE projection = $1 AND generation = $2 AND state IN ('building', 'ready', 'retired')
    """,
    ("text", "int", "text"),
)


def fail_generation(session: Session, projection: str, generation: int, reason: str) -> bool:
    """Marks the generation failed for this reason; returns True if its state changed. Never the live one."""
    return session.count(FAIL_GENERATION, projection, generation, reason) == 1


DETACH_GENERATIONS = Statement(
    "detach_generations",
    """
    UPDATE sluice.generations g SET state = 'failed', failed_reason = $1
    WHERE g.state IN ('building', 'ready', 'retired')
    RETURNING g.projection, g.generation
    """,
    ("text",),
)


def detach_generations(session: Session, reason: str) -> list[tuple[str, int]]:
    """Detaches all non-live generations and returns them. Requires the queue locks. Idempotent."""
    return sorted((projection, number) for projection, number in session.run(DETACH_GENERATIONS, reason))


SET_LIVE = Statement(
    "set_live_generation",
    "UPDATE sluice.projections SET live_generation = $2 WHERE projection = $1",
    ("text", "int"),
)


def set_live(session: Session, projection: str, generation: int) -> None:
    """Readers' view shows this generation: in the transaction that replaces the view."""
    session.run(SET_LIVE, projection, generation)


SET_PACE = Statement(
    "set_generation_pace",
    "UPDATE sluice.generations SET paused = $3, rate = $4 WHERE projection = $1 AND generation = $2",
    ("text", "int", "boolean", "int"),
)


def set_pace(session: Session, projection: str, generation: int, *, paused: bool, rate: int | None) -> None:
    """Whether its rebuild goes on, and how many events a second it may take. May run twice."""
    session.run(SET_PACE, projection, generation, paused, rate)


# One row for all tasks of the generation: they share the rate however many they are.
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
    """Seconds to wait after so many events, so that all tasks together keep the rate."""
    rows = session.run(TAKE_PACE, projection, generation, events)
    return float(rows[0][0]) if rows else 0.0


DELETE_GENERATION = Statement(
    "delete_generation",
    "DELETE FROM sluice.generations WHERE projection = $1 AND generation = $2",
    ("text", "int"),
)
DELETE_TOMBSTONES = Statement(
    "delete_tombstones", "DELETE FROM sluice.tombstones WHERE table_name = $1", ("text",)
)


def delete_generation(session: Session, projection: str, generation: int) -> None:
    """Forgets a generation with its lanes, deaths and reports. Under the locks of all queues."""
    session.run(DELETE_GENERATION, projection, generation)
    delete_tombstones(session, generation_name(projection, generation))


def delete_tombstones(session: Session, table: str) -> None:
    """Forgets the deleted keys of a table that is dropped."""
    session.run(DELETE_TOMBSTONES, table)
