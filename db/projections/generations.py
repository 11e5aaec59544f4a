"""`projections` and `generations`: the live generation of each projection, and its other generations."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.records import GenerationState
from sluice.db.tables import generation_name


class SyncedGeneration(NamedTuple):
    """A generation that receives the events that workers apply."""

    projection: str
    generation: int
    state: str
    revision: int
    has_been_live: bool
    has_letters: bool = False
    """True if letters of this generation hold back events of the requested entity type."""
    failure_window: str | None = None
    """The failure window in the requested queue; None if no event failed recently."""
    from_checkpoint: bool = False
    """True if the generation began as a copy of the live generation at a checkpoint."""

    @property
    def table(self) -> str:
        """Returns the name of the table of its rows."""
        return generation_name(self.projection, self.generation)

    @property
    def is_copy(self) -> bool:
        """Returns True if the generation contained, at some time, every event that workers had applied."""
        return self.has_been_live or self.from_checkpoint

    def takes(self, revision: int | None) -> bool:
        """Returns True if code of this revision may write the generation.

        Before the swap to the generation, only code of the generation's own revision may write it.
        """
        return self.has_been_live or revision == self.revision


@dataclass(frozen=True)
class ProjectionSnapshot:
    """The live generation of each projection, and the generations that receive events, in a fixed order."""

    live: Mapping[str, int]
    synced: Sequence[SyncedGeneration]
    """Generations with their own lanes: generations that are not live, and stopped live generations."""
    live_revisions: Mapping[str, int]
    """Projection → the revision of the code that began its live generation."""
    fed: Mapping[str, SyncedGeneration]
    """Projection → its live generation, unless it is stopped."""

    @property
    def left(self) -> Set[str]:
        """Returns the projections whose live generation was stopped."""
        return self.live.keys() - self.fed.keys() if len(self.live) > len(self.fed) else frozenset()


NO_PROJECTIONS = ProjectionSnapshot({}, (), {}, {})

READ_PROJECTION_SNAPSHOT = Statement(
    "read_projection_snapshot",
    """
    SELECT p.projection, p.live_generation, g.generation, g.state, g.revision, g.has_been_live,
           EXISTS (
               SELECT FROM sluice.projection_letters l
               WHERE l.projection = g.projection AND l.generation = g.generation AND l.entity = $1
                 AND l.state IN ('dead', 'waiting') AND l.holds
           ),
           (SELECT nullif(w.failure_window, '') FROM sluice.generation_windows w
            WHERE w.projection = g.projection AND w.generation = g.generation AND w.queue = $2
            ORDER BY w.step DESC LIMIT 1),
           g.checkpoint IS NOT NULL
    FROM sluice.projections p
    JOIN sluice.generations g ON g.projection = p.projection AND g.state <> 'failed'
    ORDER BY p.projection, g.generation
    """,
    ("text", "text"),
)


def read_projection_snapshot(session: Session, queue: str | None = None) -> ProjectionSnapshot:
    """Returns the projections and their generations.

    Under a queue's lock they cannot change, because a swap takes the locks of all queues. `queue`: the queue
    whose letters and failures are requested.
    """
    entity = None if queue is None else queue.rpartition(".")[0]
    rows = session.run(READ_PROJECTION_SNAPSHOT, entity, queue)
    read = {(row[0], row[2]): SyncedGeneration(row[0], *row[2:]) for row in rows}
    live = {row[0]: row[1] for row in rows}
    fed = {
        projection: read[projection, number]
        for projection, number in live.items()
        if (projection, number) in read and read[projection, number].state == GenerationState.LIVE
    }
    return ProjectionSnapshot(
        live,
        [one for one in read.values() if one is not fed.get(one.projection)],
        {row[0]: row[4] for row in rows if row[2] == row[1]},
        fed,
    )


class Generation(NamedTuple):
    """One generation, for operators."""

    projection: str
    generation: int
    state: str
    revision: int
    has_been_live: bool
    paused: bool
    rate: int | None
    compacted_topics: list[str]
    failed_reason: str | None
    checkpoint: str | None
    """The checkpoint with which the generation began; None if it began with the start of the log."""
    created_at: datetime
    ready_at: datetime | None
    live_at: datetime | None
    stopped_at: datetime | None

    @property
    def table(self) -> str:
        """Returns the name of the table of its rows."""
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
    """Returns the generations of one projection or of all projections, oldest first."""
    return [Generation(*row) for row in session.run(READ_GENERATIONS, projection)]


LOCK_PROJECTION = Statement(
    "lock_projection",
    "SELECT live_generation FROM sluice.projections WHERE projection = $1 FOR UPDATE",
    ("text",),
)


def lock_projection(session: Session, projection: str) -> int | None:
    """Locks a projection against other operators.

    Returns its live generation; None if the projection has no row.
    """
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
    """Returns the number for a new generation. A number is never used again."""
    ((number,),) = session.run(NUMBER_GENERATION, projection)
    return int(number)


BEGIN_GENERATION = Statement(
    "begin_generation",
    """
    INSERT INTO sluice.generations
        (projection, generation, state, revision, rate, compacted_topics, checkpoint)
    VALUES ($1, $2, 'building', $3, $4, $5, $6)
    """,
    ("text", "int", "int", "int", "jsonb", "text"),
)


def begin_generation(
    session: Session,
    projection: str,
    generation: int,
    *,
    revision: int,
    rate: int | None,
    compacted_topics: str,
    checkpoint: str | None,
) -> None:
    """Inserts a generation in state `building`, which receives new events.

    `compacted_topics`: a JSON array.
    """
    session.run(BEGIN_GENERATION, projection, generation, revision, rate, compacted_topics, checkpoint)


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
    """Sets the state of a generation."""
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
    """Marks a generation as failed if it is building, ready or retired. Returns True if its state changed."""
    return session.count(FAIL_GENERATION, projection, generation, reason) == 1


DETACH_GENERATIONS = Statement(
    "detach_generations",
    """
    UPDATE sluice.generations g SET
        state = CASE WHEN p.live_generation = g.generation THEN 'stopped' ELSE 'failed' END,
        failed_reason = $1, stopped_at = NULL
    FROM sluice.projections p
    WHERE p.projection = g.projection AND g.state IN ('building', 'ready', 'retired', 'stopped', 'resuming')
    RETURNING g.projection, g.generation
    """,
    ("text",),
)


def detach_generations(session: Session, reason: str) -> list[tuple[str, int]]:
    """Detaches all generations with their own lanes: they receive no more events. Returns them. Idempotent.

    Such a generation becomes failed. If it is live (and was stopped), it stays stopped and loses its offsets
    instead. Requires the locks of all queues.
    """
    return sorted((projection, number) for projection, number in session.run(DETACH_GENERATIONS, reason))


SET_LIVE = Statement(
    "set_live_generation",
    "UPDATE sluice.projections SET live_generation = $2 WHERE projection = $1",
    ("text", "int"),
)


def set_live(session: Session, projection: str, generation: int) -> None:
    """Makes this generation live. Call it in the transaction that replaces the view."""
    session.run(SET_LIVE, projection, generation)


DELETE_GENERATION = Statement(
    "delete_generation",
    "DELETE FROM sluice.generations WHERE projection = $1 AND generation = $2",
    ("text", "int"),
)
DELETE_TOMBSTONES = Statement(
    "delete_tombstones", "DELETE FROM sluice.tombstones WHERE table_name = $1", ("text",)
)


def delete_generation(session: Session, projection: str, generation: int) -> None:
    """Deletes a generation with its lanes, deaths and reports. Requires the locks of all queues."""
    session.run(DELETE_GENERATION, projection, generation)
    delete_tombstones(session, generation_name(projection, generation))


def delete_tombstones(session: Session, table: str) -> None:
    """Deletes the tombstones of a dropped table."""
    session.run(DELETE_TOMBSTONES, table)
