"""Dead letters, for operators: lists, counts and entities. Changes letters that hold up no other letter."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sluice.db.admin.outbox_admin import BEHIND_NEWEST, LOOKING
from sluice.db.connection import Session, Statement
from sluice.db.records import RECORD_SKIPPED
from sluice.db.values import bare_array


class Chosen(NamedTuple):
    """A filter of letters. None means any value. `older_than_seconds` is the least age of the letter."""

    ids: tuple[int, ...] | None = None
    topic: str | None = None
    entity: str | None = None
    entity_key: str | None = None
    type: str | None = None
    error_class: str | None = None
    state: str | None = None
    older_than_seconds: float | None = None


class LetterCount(NamedTuple):
    """The number of letters with the same topic, error class, state and outcome."""

    topic: str
    error_class: str
    state: str
    outcome: str
    letters: int


class ListedLetter(NamedTuple):
    """A letter without key and value. `behind`: number of letters behind it; None if none can be."""

    id: int
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
    behind: int | None


# A letter that is retried is stored with the state "waiting".
SHOWN_STATE = """CASE WHEN d.state = 'waiting' AND EXISTS (
        SELECT FROM sluice.retries r WHERE r.letter_id = d.id
    ) THEN 'retrying' ELSE d.state END"""
LISTED = f"""d.id, d.topic, d.partition, d."offset", d.entity, d.entity_key, d.type, d.error_class,
    d.error_text, d.outcome, {SHOWN_STATE}, d.attempts, extract(epoch FROM now() - d.created_at)::float8"""
# Counted only for an entity's first letter. For the others, the count would read all letters each time.
_BEHIND = """CASE WHEN d.state = 'dead' AND d.outcome <> 'conflict' OR EXISTS (
        SELECT FROM sluice.retries r WHERE r.letter_id = d.id AND d.state = 'waiting'
    ) THEN (
        SELECT count(*) FROM sluice.dead_letters b
        WHERE b.entity = d.entity AND b.entity_key = d.entity_key AND b.id > d.id AND b.state = 'waiting'
    ) END"""
# The parameters are the fields of Chosen, in order.
CHOSEN = f"""($1 IS NULL OR d.id = ANY ($1)) AND ($2 IS NULL OR d.topic = $2)
    AND ($3 IS NULL OR d.entity = $3) AND ($4 IS NULL OR d.entity_key = $4)
    AND ($5 IS NULL OR d.type = $5) AND ($6 IS NULL OR d.error_class = $6)
    AND ($7 IS NULL OR {SHOWN_STATE} = $7)
    AND ($8 IS NULL OR d.created_at < now() - make_interval(secs => $8))"""
CHOSEN_TYPES = ("bigint[]", "text", "text", "text", "text", "text", "text", "float8")

COUNT_LETTERS = Statement(
    "count_letters",
    f"""
    SELECT d.topic, d.error_class, {SHOWN_STATE} AS state, d.outcome, count(*)
    FROM sluice.dead_letters d WHERE {CHOSEN}
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    """,
    CHOSEN_TYPES,
)


def count_letters(session: Session, chosen: Chosen) -> list[LetterCount]:
    """Returns the number of letters per topic, error class, state and outcome. Omits empty groups."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [LetterCount(*row) for row in session.run(COUNT_LETTERS, *chosen_values(chosen))]


READ_LETTERS = Statement(
    "read_letters",
    f"""
    SELECT {LISTED}, {_BEHIND} FROM sluice.dead_letters d WHERE {CHOSEN} AND d.id < $9
    ORDER BY d.id DESC LIMIT $10
    """,
    (*CHOSEN_TYPES, "bigint", "int"),
)


def read_letters(session: Session, chosen: Chosen, *, after: int, limit: int) -> list[ListedLetter]:
    """Returns letters, newest first.

    Begins after the letter with the id `after`, or with the newest if it is 0.
    """
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        rows = session.run(READ_LETTERS, *chosen_values(chosen), after or BEHIND_NEWEST, limit)
        return [ListedLetter(*row) for row in rows]


class LetterReason(NamedTuple):
    """The number of letters with the same reason, and the newest of these letters."""

    letters: int
    topic: str
    error_class: str
    state: str
    newest_id: int
    error_text: str


COUNT_REASONS = Statement(
    "count_letter_reasons",
    f"""
    SELECT count(*), d.topic, d.error_class, {SHOWN_STATE} AS state, max(d.id), d.error_text
    FROM sluice.dead_letters d WHERE {CHOSEN}
    GROUP BY d.topic, d.error_class, 4, d.error_text HAVING count(*) > 1
    ORDER BY count(*) DESC, max(d.id) DESC LIMIT $9
    """,
    (*CHOSEN_TYPES, "int"),
)


def count_letter_reasons(session: Session, chosen: Chosen, *, limit: int) -> list[LetterReason]:
    """Returns the reasons that several of the chosen letters share, the most frequent first."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [LetterReason(*row) for row in session.run(COUNT_REASONS, *chosen_values(chosen), limit)]


def chosen_values(chosen: Chosen) -> tuple[Any, ...]:
    """Returns the parameters of CHOSEN."""
    return (None if chosen.ids is None else bare_array(chosen.ids), *chosen[1:])


RESOLVE_CONFLICTS = Statement(
    "resolve_conflicts",
    """
    UPDATE sluice.dead_letters SET state = 'done', settled_at = now()
    WHERE id = ANY ($1) AND state = 'dead' AND outcome = 'conflict'
    RETURNING id
    """,
    ("bigint[]",),
)


def resolve_conflicts(session: Session, ids: Sequence[int]) -> set[int]:
    """Marks conflicts as resolved. Returns the ids that changed. Idempotent."""
    return {number for (number,) in session.run(RESOLVE_CONFLICTS, bare_array(ids))}


DROP_KEYLESS = Statement(
    "drop_keyless",
    """
    UPDATE sluice.dead_letters SET state = 'dropped', settled_at = now()
    WHERE id = $1 AND state IN ('dead', 'waiting') AND outcome = state AND entity_key IS NULL
    """,
    ("bigint",),
)


def drop_keyless(session: Session, letter_id: int) -> bool:
    """Drops a letter that belongs to no entity. Returns True if it was dead or retried. Idempotent."""
    return session.count(DROP_KEYLESS, letter_id) == 1


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
    """Returns the id of the open letter that a redrive of the entity applies first, or None."""
    rows = session.run(READ_HEAD, entity, key)
    return int(rows[0][0]) if rows else None


READ_OPEN_ENTITIES = Statement(
    "read_open_entities",
    f"""
    WITH meant AS (
        -- Entities of the chosen letters.
        SELECT d.entity, d.entity_key, min(d.id) AS first_id
        FROM sluice.dead_letters d
        WHERE {CHOSEN} AND d.state IN ('dead', 'waiting') AND d.outcome <> 'conflict'
          AND d.entity_key IS NOT NULL
        GROUP BY d.entity, d.entity_key
        ORDER BY first_id LIMIT $9
    )
    SELECT m.entity, m.entity_key, c.dead, c.waiting
    FROM meant m
    -- One index lookup per entity. A join of sets would read all letters of the entity type.
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
    """Returns the entities of the chosen letters, and counts their open letters, oldest first."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [OpenLetters(*row) for row in session.run(READ_OPEN_ENTITIES, *chosen_values(chosen), limit)]


READ_KEYLESS = Statement(
    "read_keyless",
    f"""
    SELECT d.id, d.entity FROM sluice.dead_letters d
    WHERE {CHOSEN} AND d.entity_key IS NULL AND d.state IN ('dead', 'waiting') AND d.outcome = d.state
      AND d.error_class <> '{RECORD_SKIPPED}'
    ORDER BY d.id LIMIT $9
    """,
    (*CHOSEN_TYPES, "int"),
)


def read_keyless(session: Session, chosen: Chosen, *, limit: int) -> list[tuple[int, str]]:
    """Returns (id, entity type) of the chosen letters that belong to no entity and are dead or retried.

    Omits records that an operator skipped, because no process has read them.
    """
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        rows = session.run(READ_KEYLESS, *chosen_values(chosen), limit)
        return [(number, entity) for number, entity in rows]


class OpenConflict(NamedTuple):
    """A conflict that is not resolved."""

    id: int
    entity: str
    entity_key: str | None


READ_CONFLICTS = Statement(
    "read_conflicts",
    f"""
    SELECT d.id, d.entity, d.entity_key FROM sluice.dead_letters d
    WHERE {CHOSEN} AND d.state = 'dead' AND d.outcome = 'conflict' ORDER BY d.id LIMIT $9
    """,
    (*CHOSEN_TYPES, "int"),
)


def read_conflicts(session: Session, chosen: Chosen, *, limit: int) -> list[OpenConflict]:
    """Returns the chosen conflicts that are not resolved, oldest first."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [OpenConflict(*row) for row in session.run(READ_CONFLICTS, *chosen_values(chosen), limit)]


# Entities whose events are retried are not counted, because they need no operator.
PARKED = """sluice.parked_entities p
    WHERE NOT EXISTS (SELECT FROM sluice.retries r WHERE r.entity = p.entity AND r.key = p.key)"""
COUNT_PARKED = Statement("count_parked", f"SELECT count(*) FROM {PARKED}")


def count_parked(session: Session) -> int:
    """Returns the number of entities that wait for an operator."""
    ((count,),) = session.run(COUNT_PARKED)
    return int(count)
