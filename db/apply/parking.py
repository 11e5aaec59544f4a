"""`parked_entities`: entities with a dead letter at their head; what comes later waits behind it."""

from collections.abc import Sequence

from sluice.db.arrays import text_array
from sluice.db.connection import Session, Statement

LOAD_PARKED = Statement(
    "load_parked",
    "SELECT key FROM sluice.parked_entities WHERE entity = $1 AND key = ANY ($2)",
    ("text", "text[]"),
)


def load_parked(session: Session, entity: str, keys: Sequence[str]) -> set[str]:
    """Those of the keys that are parked. Under the queue's lock."""
    return {key for (key,) in session.run(LOAD_PARKED, entity, text_array(keys))} if keys else set()


INSERT_PARKED = Statement(
    "insert_parked",
    """
    INSERT INTO sluice.parked_entities (entity, key, queue, reason)
    SELECT $1, d.key, $2, d.reason FROM unnest($3, $4) AS d (key, reason)
    ON CONFLICT (entity, key) DO UPDATE SET reason = excluded.reason
    """,
    ("text", "text", "text[]", "text[]"),
)


def park_entities(session: Session, entity: str, queue: str, reasons: Sequence[tuple[str, str]]) -> None:
    """Parks entities, by (key, reason). Under the queue's lock; may run twice."""
    if reasons:
        keys, texts = zip(*reasons, strict=True)
        session.run(INSERT_PARKED, entity, queue, text_array(keys), text_array(texts))


UNPARK = Statement(
    "unpark",
    """
    DELETE FROM sluice.parked_entities p
    WHERE p.entity = $1 AND p.key = $2
      -- A conflict is listed, but nothing waits behind it.
      AND NOT EXISTS (
          SELECT FROM sluice.dead_letters d
          WHERE d.entity = $1 AND d.entity_key = $2 AND d.state IN ('dead', 'waiting')
            AND d.outcome <> 'conflict'
      )
    """,
    ("text", "text"),
)


def unpark_if_clear(session: Session, entity: str, key: str) -> bool:
    """Unparks the entity if nothing is dead or waits; whether it did. Under the queue's lock, or it races."""
    return session.count(UNPARK, entity, key) == 1
