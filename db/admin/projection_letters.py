"""Letters of generations, for operators: lists, counts, and the entities that wait."""

from typing import NamedTuple

from sluice.db.admin.outbox_admin import BEHIND_NEWEST, LOOKING
from sluice.db.connection import Session, Statement
from sluice.db.values import bare_array


class ChosenLetters(NamedTuple):
    """A filter of letters of projections. None means any value.

    If neither `generation` nor `ids` is given, only letters of live generations are chosen.
    """

    projection: str | None = None
    generation: int | None = None
    ids: tuple[int, ...] | None = None
    topic: str | None = None
    entity: str | None = None
    entity_key: str | None = None
    type: str | None = None
    error_class: str | None = None
    state: str | None = None
    older_than_seconds: float | None = None


class ProjectionLetterRow(NamedTuple):
    """A letter of a generation without key and value."""

    id: int
    projection: str
    generation: int
    topic: str
    partition: int
    offset: int
    entity: str
    entity_key: str | None
    type: str | None
    error_class: str
    error_text: str
    outcome: str
    state: str
    attempts: int
    age_seconds: float


_CHOSEN = """($1 IS NULL OR l.projection = $1)
    AND CASE WHEN $2 IS NULL THEN $3 IS NOT NULL OR p.live_generation = l.generation
             ELSE l.generation = $2 END
    AND ($3 IS NULL OR l.id = ANY ($3)) AND ($4 IS NULL OR l.topic = $4)
    AND ($5 IS NULL OR l.entity = $5) AND ($6 IS NULL OR l.entity_key = $6)
    AND ($7 IS NULL OR l.type = $7) AND ($8 IS NULL OR l.error_class = $8)
    AND ($9 IS NULL OR l.state = $9)
    AND ($10 IS NULL OR l.created_at < now() - make_interval(secs => $10))"""
_FROM = "sluice.projection_letters l JOIN sluice.projections p ON p.projection = l.projection"
_TYPES = ("text", "int", "bigint[]", "text", "text", "text", "text", "text", "text", "float8")

READ_PROJECTION_LETTERS = Statement(
    "read_projection_letters",
    f"""
    SELECT l.id, l.projection, l.generation, l.topic, l.partition, l."offset", l.entity, l.entity_key, l.type,
           l.error_class, l.error_text, l.outcome, l.state, l.attempts,
           extract(epoch FROM now() - l.created_at)::float8
    FROM {_FROM} WHERE {_CHOSEN} AND l.id < $11 ORDER BY l.id DESC LIMIT $12
    """,
    (*_TYPES, "bigint", "int"),
)


def read_projection_letters(
    session: Session, chosen: ChosenLetters, *, after: int = 0, limit: int
) -> list[ProjectionLetterRow]:
    """Returns letters, newest first, after the letter with id `after`; from the first if it is 0."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        rows = session.run(READ_PROJECTION_LETTERS, *_values(chosen), after or BEHIND_NEWEST, limit)
        return [ProjectionLetterRow(*row) for row in rows]


class HeldLetters(NamedTuple):
    """An entity with open letters in one generation.

    If the key is None, this is a single letter that belongs to no entity.
    """

    projection: str
    generation: int
    entity: str
    entity_key: str | None
    first_id: int
    failed: int
    waiting: int


READ_HELD_ENTITIES = Statement(
    "read_held_entities",
    f"""
    WITH meant AS (
        SELECT DISTINCT l.projection, l.generation, l.entity, l.entity_key,
               CASE WHEN l.entity_key IS NULL THEN l.id END AS number
        FROM {_FROM} WHERE {_CHOSEN} AND l.state IN ('dead', 'waiting')
    )
    SELECT m.projection, m.generation, m.entity, m.entity_key, c.first_id, c.failed, c.waiting
    FROM meant m
    CROSS JOIN LATERAL (
        SELECT min(l.id) AS first_id, count(*) FILTER (WHERE l.state = 'dead') AS failed,
               count(*) FILTER (WHERE l.state = 'waiting') AS waiting
        FROM sluice.projection_letters l
        WHERE l.projection = m.projection AND l.generation = m.generation AND l.entity = m.entity
          AND (l.entity_key = m.entity_key OR m.entity_key IS NULL AND l.id = m.number)
          AND l.state IN ('dead', 'waiting')
    ) c
    ORDER BY c.first_id LIMIT $11
    """,
    (*_TYPES, "int"),
)


def read_held_entities(session: Session, chosen: ChosenLetters, *, limit: int) -> list[HeldLetters]:
    """Returns the entities of the chosen open letters, and counts their open letters. The oldest is first."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [HeldLetters(*row) for row in session.run(READ_HELD_ENTITIES, *_values(chosen), limit)]


class OpenLetterCount(NamedTuple):
    """The numbers of open letters of a projection's live generation."""

    projection: str
    failed: int
    waiting: int


COUNT_OPEN = Statement(
    "count_open_projection_letters",
    """
    SELECT p.projection, count(*) FILTER (WHERE l.state = 'dead'),
           count(*) FILTER (WHERE l.state = 'waiting')
    FROM sluice.projections p
    JOIN sluice.projection_letters l ON l.projection = p.projection AND l.generation = p.live_generation
    WHERE l.state IN ('dead', 'waiting') GROUP BY 1 ORDER BY 1
    """,
)


def count_open(session: Session) -> list[OpenLetterCount]:
    """Returns the projections with open letters."""
    return [OpenLetterCount(*row) for row in session.run(COUNT_OPEN)]


def _values(chosen: ChosenLetters) -> tuple[object, ...]:
    ids = None if chosen.ids is None else bare_array(chosen.ids)
    return (*chosen[:2], ids, *chosen[3:])
