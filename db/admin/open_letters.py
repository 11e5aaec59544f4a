"""Entities with dead letters that are not settled: which, how many letters, and the one at the head."""

from typing import NamedTuple

from sluice.db.admin.letters import CHOSEN, CHOSEN_TYPES, Chosen, chosen_values
from sluice.db.admin.outbox_admin import LOOKING
from sluice.db.connection import Session, Statement


class OpenLetters(NamedTuple):
    """An entity with letters that are not settled."""

    entity: str
    entity_key: str
    dead: int
    waiting: int


READ_HEAD = Statement(
    "read_head",
    """
    SELECT id FROM sluice.dead_letters
    WHERE entity = $1 AND entity_key = $2 AND state IN ('dead', 'waiting') AND outcome <> 'conflict'
    ORDER BY id LIMIT 1
    """,
    ("text", "text"),
)


def read_head(session: Session, entity: str, key: str) -> int | None:
    """The letter of an entity that comes first when it is redriven."""
    rows = session.run(READ_HEAD, entity, key)
    return int(rows[0][0]) if rows else None


READ_OPEN_ENTITIES = Statement(
    "read_open_entities",
    f"""
    WITH meant AS (
        -- Whose letters were chosen.
        SELECT d.entity, d.entity_key, min(d.id) AS first_id
        FROM sluice.dead_letters d
        WHERE {CHOSEN} AND d.state IN ('dead', 'waiting') AND d.outcome <> 'conflict'
          AND d.entity_key IS NOT NULL
        GROUP BY d.entity, d.entity_key
        ORDER BY first_id LIMIT $9
    )
    SELECT m.entity, m.entity_key, c.dead, c.waiting
    FROM meant m
    -- One by one along the index: joined as sets, each would meet all letters of its entity type.
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE d.state = 'dead') AS dead,
               count(*) FILTER (WHERE d.state = 'waiting') AS waiting
        FROM sluice.dead_letters d
        WHERE d.entity = m.entity AND d.entity_key = m.entity_key
          AND d.state IN ('dead', 'waiting') AND d.outcome <> 'conflict'
    ) c
    ORDER BY m.first_id
    """,
    (*CHOSEN_TYPES, "int"),
)


def read_open_entities(session: Session, chosen: Chosen, *, limit: int) -> list[OpenLetters]:
    """The entities of the chosen letters with all that is dead or waits of them, oldest first."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [OpenLetters(*row) for row in session.run(READ_OPEN_ENTITIES, *chosen_values(chosen), limit)]


READ_KEYLESS = Statement(
    "read_keyless",
    f"""
    SELECT d.id, d.entity FROM sluice.dead_letters d
    WHERE {CHOSEN} AND d.entity_key IS NULL AND d.state = 'dead' AND d.outcome = 'dead'
    ORDER BY d.id LIMIT $9
    """,
    (*CHOSEN_TYPES, "int"),
)


def read_keyless(session: Session, chosen: Chosen, *, limit: int) -> list[tuple[int, str]]:
    """(id, entity type) of the chosen letters that are dead and whose record names no entity."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        rows = session.run(READ_KEYLESS, *chosen_values(chosen), limit)
        return [(number, entity) for number, entity in rows]


COUNT_PARKED = Statement("count_parked", "SELECT count(*) FROM sluice.parked_entities")


def count_parked(session: Session) -> int:
    """How many entities are parked."""
    ((count,),) = session.run(COUNT_PARKED)
    return int(count)
