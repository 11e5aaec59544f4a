"""`projection_letters`: events that one generation could not apply, and the events that wait behind them."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sluice.db.apply.dead_letters import (
    LETTER_ARRAYS,
    LETTER_COLUMNS,
    LETTER_NAMES,
    LETTER_STATE,
    LETTER_TYPES,
    LETTER_VALUES,
    Letter,
    letter_arrays,
    letter_of,
    numbered,
)
from sluice.db.connection import Session, Statement
from sluice.db.records import DeadLetterRow, LetterState, Outcome
from sluice.db.values import bare_array, text_array

# Ids increase in the order of the records. A redrive applies letters in the order of their ids.
INSERT_PROJECTION_LETTERS = Statement(
    "insert_projection_letters",
    f"""
    INSERT INTO sluice.projection_letters (id, projection, generation, entity, {LETTER_NAMES}, holds, state)
    SELECT nextval('sluice.dead_letters_id_seq'), $1, $2, $3, {LETTER_VALUES}, d.holds, {LETTER_STATE}
    FROM unnest({numbered(4, len(LETTER_TYPES) + 1)}) WITH ORDINALITY AS d ({LETTER_NAMES}, holds, n)
    ON CONFLICT (projection, generation, topic_id, partition, "offset") DO NOTHING
    """,
    ("text", "int", "text", *LETTER_ARRAYS, "bool[]"),
)


class HoldingRow(NamedTuple):
    """A letter to store. `holds` is True if later events of its entity wait behind it."""

    letter: DeadLetterRow
    holds: bool


def insert_projection_letters(
    session: Session, projection: str, generation: int, entity: str, rows: Sequence[HoldingRow]
) -> None:
    """Stores letters of one generation, in this order. Idempotent. Requires the queue's lock."""
    if not rows:
        return
    arrays = letter_arrays(row.letter for row in rows)
    holds = bare_array([str(row.holds).lower() for row in rows])
    session.run(INSERT_PROJECTION_LETTERS, projection, generation, entity, *arrays, holds)


LOAD_HELD = Statement(
    "load_held",
    """
    SELECT DISTINCT entity_key FROM sluice.projection_letters
    WHERE projection = $1 AND generation = $2 AND entity = $3 AND entity_key = ANY ($4)
      AND state IN ('dead', 'waiting') AND holds
    """,
    ("text", "int", "text", "text[]"),
)


def load_held(
    session: Session, projection: str, generation: int, entity: str, keys: Sequence[str]
) -> set[str]:
    """Returns the keys whose later events must wait behind letters of this generation.

    Requires the queue's lock.
    """
    if not keys:
        return set()
    return {key for (key,) in session.run(LOAD_HELD, projection, generation, entity, text_array(keys))}


READ_GENERATION_HEALTH = Statement(
    "read_generation_health",
    """
    SELECT EXISTS (
               SELECT FROM sluice.projection_letters l
               WHERE l.projection = $1 AND l.generation = $2 AND l.entity = $3
                 AND l.state IN ('dead', 'waiting') AND l.holds
           ),
           (SELECT nullif(w.failure_window, '') FROM sluice.generation_windows w
            WHERE w.projection = $1 AND w.generation = $2 AND w.queue = $4
            ORDER BY w.step DESC LIMIT 1)
    """,
    ("text", "int", "text", "text"),
)


def read_generation_health(
    session: Session, projection: str, generation: int, entity: str, queue: str
) -> tuple[bool, str | None]:
    """Returns two facts about a generation.

    The first is True if letters of the generation hold back events of the entity type. The second is its
    failure window in the queue, or None.
    """
    ((has_letters, window),) = session.run(READ_GENERATION_HEALTH, projection, generation, entity, queue)
    return bool(has_letters), window


LOCK_HELD_LETTERS = Statement(
    "lock_held_letters",
    f"""
    SELECT {LETTER_COLUMNS} FROM sluice.projection_letters
    WHERE projection = $1 AND generation = $2 AND entity = $3 AND entity_key = $4
      AND state IN ('dead', 'waiting')
    ORDER BY id LIMIT $5 FOR UPDATE
    """,
    ("text", "int", "text", "text", "int"),
)
LOCK_PROJECTION_LETTER = Statement(
    "lock_projection_letter",
    f"SELECT {LETTER_COLUMNS} FROM sluice.projection_letters WHERE id = $1 FOR UPDATE",
    ("bigint",),
)


def lock_letters(
    session: Session, projection: str, generation: int, entity: str, key: str, limit: int
) -> list[Letter]:
    """Locks and returns an entity's open letters in a generation, oldest first. Requires the queue's lock."""
    rows = session.run(LOCK_HELD_LETTERS, projection, generation, entity, key, limit)
    return [letter_of(row) for row in rows]


def lock_letter(session: Session, letter_id: int) -> Letter | None:
    """Locks and returns one letter of a generation; None if no letter has this id.

    Requires the queue's lock.
    """
    rows: list[tuple[Any, ...]] = session.run(LOCK_PROJECTION_LETTER, letter_id)
    return letter_of(rows[0]) if rows else None


FINISH_PROJECTION_LETTERS = Statement(
    "finish_projection_letters",
    """
    UPDATE sluice.projection_letters SET state = $2, settled_at = now()
    WHERE id = ANY ($1) AND state IN ('dead', 'waiting')
    """,
    ("bigint[]", "text"),
)


def finish_letters(session: Session, ids: Sequence[int], state: LetterState) -> None:
    """Marks open letters as done or dropped. Idempotent. Requires the queue's lock."""
    if ids:
        session.run(FINISH_PROJECTION_LETTERS, bare_array(ids), state)


FAIL_PROJECTION_LETTER = Statement(
    "fail_projection_letter",
    """
    UPDATE sluice.projection_letters
    SET state = 'dead', outcome = $2, error_class = $3, error_text = $4, traceback = $5, holds = $6,
        attempts = attempts + 1
    WHERE id = $1
    """,
    ("bigint", "text", "text", "text", "text", "bool"),
)


def fail_letter(
    session: Session,
    letter_id: int,
    outcome: Outcome,
    error_class: str,
    error_text: str,
    traceback: str | None,
    *,
    holds: bool,
) -> None:
    """Stores the reason why a letter failed again. Requires the queue's lock."""
    session.run(FAIL_PROJECTION_LETTER, letter_id, outcome, error_class, error_text, traceback, holds)


# Searches by identity, because a log that was moved or compacted contains the events at other offsets.
READ_DROPPED = Statement(
    "read_dropped",
    """
    SELECT l.identity FROM sluice.projection_letters l
    JOIN sluice.projections p ON p.projection = l.projection
    WHERE l.projection = $1 AND l.generation IN ($2, p.live_generation)
      AND l.state = 'dropped' AND l.identity = ANY ($3)
    """,
    ("text", "int", "uuid[]"),
)


def read_dropped(session: Session, projection: str, generation: int, identities: Sequence[UUID]) -> set[UUID]:
    """Returns the identities of events that were dropped for this generation or for the live generation."""
    rows = session.run(READ_DROPPED, projection, generation, bare_array(identities))
    return {identity for (identity,) in rows}


_COPIED = ", ".join(
    f'"{name}"'
    for name in ("entity", *LETTER_TYPES, "attempts", "state", "holds", "created_at", "settled_at")
)
COPY_DROPPED = Statement(
    "copy_dropped",
    f"""
    INSERT INTO sluice.projection_letters (id, projection, generation, {_COPIED})
    SELECT nextval('sluice.dead_letters_id_seq'), l.projection, $2, {_COPIED}
    FROM sluice.projection_letters l
    JOIN sluice.projections p ON p.projection = l.projection AND p.live_generation = l.generation
    WHERE l.projection = $1 AND l.state = 'dropped'
    ON CONFLICT (projection, generation, topic_id, partition, "offset") DO NOTHING
    """,
    ("text", "int"),
)


def copy_dropped(session: Session, projection: str, generation: int) -> None:
    """Copies the dropped letters of the live generation to this generation. Idempotent."""
    session.run(COPY_DROPPED, projection, generation)


# The row is found by its complete key: a shorter key would also find the versions that an old snapshot keeps.
WRITE_FAILURES = Statement(
    "write_generation_failures",
    """
    WITH newest AS MATERIALIZED (
        SELECT step FROM sluice.generation_windows WHERE projection = $1 AND generation = $2 AND queue = $3
        ORDER BY step DESC LIMIT 1
    ), written AS (
        UPDATE sluice.generation_windows SET step = step + 1, failure_window = $4
        WHERE projection = $1 AND generation = $2 AND queue = $3 AND step = (SELECT step FROM newest)
    )
    INSERT INTO sluice.generation_windows (projection, generation, queue, step, failure_window)
    SELECT $1, $2, $3, 1, $4 WHERE NOT EXISTS (SELECT FROM newest)
    ON CONFLICT DO NOTHING
    """,
    ("text", "int", "text", "text"),
)
CLEAR_FAILURES = Statement(
    "clear_generation_failures",
    """
    UPDATE sluice.generation_windows w SET step = step + 1, failure_window = ''
    WHERE w.projection = $1 AND w.generation = $2 AND w.failure_window <> '' AND NOT EXISTS (
        SELECT FROM sluice.generation_windows n
        WHERE n.projection = $1 AND n.generation = $2 AND n.queue = w.queue AND n.step > w.step
    )
    """,
    ("text", "int"),
)


def write_failures(session: Session, projection: str, generation: int, queue: str, window: str) -> None:
    """Writes the failure window of a generation in one queue. An empty window has no failures. Idempotent.

    Of two writes at the same time, one may be lost.
    """
    session.run(WRITE_FAILURES, projection, generation, queue, window)


def clear_failures(session: Session, projection: str, generation: int) -> None:
    """Removes the failures of a generation in all queues. Idempotent."""
    session.run(CLEAR_FAILURES, projection, generation)
