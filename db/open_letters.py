"""Entities with dead letters that are not settled: which, how many letters, and the one at the head."""

from typing import NamedTuple

from db.letter_listing import CHOSEN, CHOSEN_TYPES, Chosen, chosen_values
from db.outbox_listing import LOOKING
from db.session import Session, Statement


class OpenLetters(NamedTuple):
    """An entity with letters that are not settled. A key of None stands for those that name no entity."""

    entity: str
    entity_key: str | None
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
        SELECT d.entity, d.entity_key, min(d.id) AS first_id, count(*) AS letters
        FROM sluice.dead_letters d
        WHERE {CHOSEN} AND d.state IN ('dead', 'waiting') AND d.outcome <> 'conflict'
        GROUP BY d.entity, d.entity_key
        ORDER BY first_id LIMIT $9
    )
    SELECT m.entity, m.entity_key, CASE WHEN m.entity_key IS NULL THEN m.letters ELSE c.dead END, c.waiting
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
    """The entities of the chosen letters with all that is dead or waits of them, oldest first.

    Letters that name no entity are counted as far as they are chosen.
    """
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [OpenLetters(*row) for row in session.run(READ_OPEN_ENTITIES, *chosen_values(chosen), limit)]


COUNT_PARKED = Statement("count_parked", "SELECT count(*) FROM sluice.parked_entities")


def count_parked(session: Session) -> int:
    """How many entities are parked."""
    ((count,),) = session.run(COUNT_PARKED)
    return int(count)
