"""Dead letters for an operator to look at: counts, rows, one whole, and which entities they are of."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from db.arrays import bare_array
from db.outbox_listing import LOOKING
from db.session import Session, Statement


class Chosen(NamedTuple):
    """Which letters are meant; None: any. `older_than_seconds` is by when they were listed first."""

    ids: tuple[int, ...] | None = None
    topic: str | None = None
    entity: str | None = None
    entity_key: str | None = None
    type: str | None = None
    error_class: str | None = None
    state: str | None = None
    older_than_seconds: float | None = None


class LetterCount(NamedTuple):
    """How many letters there are of one kind."""

    topic: str
    error_class: str
    state: str
    outcome: str
    letters: int


class ListedLetter(NamedTuple):
    """A letter without its bytes. `behind` it wait so many of its entity."""

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
    behind: int


class WholeLetter(NamedTuple):
    """Everything that is known of a letter; `headers` are pairs of a name and a value in hex."""

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
    behind: int
    topic_id: str
    queue: str
    identity: UUID
    event_id: str | None
    source: str | None
    timestamp_ms: int
    created_at: datetime
    settled_at: datetime | None
    headers: list[tuple[str, str | None]]
    key: memoryview | None
    value: memoryview | None
    parked: str | None


class OpenLetters(NamedTuple):
    """An entity with letters that are not settled. A key of None stands for those that name no entity."""

    entity: str
    entity_key: str | None
    dead: int
    waiting: int


# Conflicts hold nothing up, and a letter that is settled or has no entity neither.
_BEHIND = """(SELECT count(*) FROM sluice.dead_letters b
     WHERE b.entity = d.entity AND b.entity_key = d.entity_key AND b.id > d.id AND b.state = 'waiting'
       AND d.state IN ('dead', 'waiting') AND d.outcome <> 'conflict')"""
_LISTED = f"""d.id, d.topic, d.partition, d."offset", d.entity, d.entity_key, d.type, d.error_class,
    d.error_text, d.outcome, d.state, d.attempts,
    extract(epoch FROM now() - d.created_at)::float8, {_BEHIND}"""
_WHOLE = f"""{_LISTED}, d.topic_id, d.queue, d.identity, d.event_id, d.source, d.timestamp_ms, d.created_at,
    d.settled_at, d.headers, d.key, d.value,
    (SELECT p.reason FROM sluice.parked_entities p WHERE p.entity = d.entity AND p.key = d.entity_key)"""
# Chosen, in its order.
_CHOSEN = """($1 IS NULL OR d.id = ANY ($1)) AND ($2 IS NULL OR d.topic = $2)
    AND ($3 IS NULL OR d.entity = $3) AND ($4 IS NULL OR d.entity_key = $4)
    AND ($5 IS NULL OR d.type = $5) AND ($6 IS NULL OR d.error_class = $6)
    AND ($7 IS NULL OR d.state = $7)
    AND ($8 IS NULL OR d.created_at < now() - make_interval(secs => $8))"""
_CHOSEN_TYPES = ("bigint[]", "text", "text", "text", "text", "text", "text", "float8")

COUNT_LETTERS = Statement(
    "count_letters",
    f"""
    SELECT d.topic, d.error_class, d.state, d.outcome, count(*) FROM sluice.dead_letters d WHERE {_CHOSEN}
    GROUP BY d.topic, d.error_class, d.state, d.outcome ORDER BY d.topic, d.error_class, d.state, d.outcome
    """,
    _CHOSEN_TYPES,
)


def count_letters(session: Session, chosen: Chosen) -> list[LetterCount]:
    """Per topic, error class, state and outcome, of those with any."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [LetterCount(*row) for row in session.run(COUNT_LETTERS, *_values(chosen))]


READ_LETTERS = Statement(
    "read_letters",
    f"SELECT {_LISTED} FROM sluice.dead_letters d WHERE {_CHOSEN} AND d.id > $9 ORDER BY d.id LIMIT $10",
    (*_CHOSEN_TYPES, "bigint", "int"),
)


def read_letters(session: Session, chosen: Chosen, *, after: int, limit: int) -> list[ListedLetter]:
    """Letters by id, which rises as they are listed; those after `after`."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [ListedLetter(*row) for row in session.run(READ_LETTERS, *_values(chosen), after, limit)]


READ_WHOLE_LETTERS = Statement(
    "read_whole_letters",
    f"SELECT {_WHOLE} FROM sluice.dead_letters d WHERE {_CHOSEN} AND d.id > $9 ORDER BY d.id LIMIT $10",
    (*_CHOSEN_TYPES, "bigint", "int"),
)


def read_whole_letters(session: Session, chosen: Chosen, *, after: int, limit: int) -> list[WholeLetter]:
    """Letters whole, by id; those after `after`. Each may hold megabytes: ask for few."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [WholeLetter(*row) for row in session.run(READ_WHOLE_LETTERS, *_values(chosen), after, limit)]


READ_BEHIND = Statement(
    "read_behind",
    f"""
    SELECT {_LISTED} FROM sluice.dead_letters d
    WHERE d.entity = $1 AND d.entity_key = $2 AND d.id > $3 AND d.state = 'waiting'
    ORDER BY d.id LIMIT $4
    """,
    ("text", "text", "bigint", "int"),
)


def read_behind(session: Session, letter: WholeLetter, *, limit: int) -> list[ListedLetter]:
    """The first of those that wait behind a letter."""
    rows = session.run(READ_BEHIND, letter.entity, letter.entity_key, letter.id, limit)
    return [ListedLetter(*row) for row in rows]


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
        SELECT d.entity, d.entity_key, min(d.id) AS first_id FROM sluice.dead_letters d
        WHERE {_CHOSEN} AND d.state IN ('dead', 'waiting') AND d.outcome <> 'conflict'
        GROUP BY d.entity, d.entity_key
        ORDER BY first_id LIMIT $9
    )
    SELECT m.entity, m.entity_key, count(*) FILTER (WHERE d.state = 'dead'),
           count(*) FILTER (WHERE d.state = 'waiting')
    FROM meant m
    JOIN sluice.dead_letters d ON d.entity = m.entity AND d.entity_key IS NOT DISTINCT FROM m.entity_key
    WHERE d.state IN ('dead', 'waiting') AND d.outcome <> 'conflict'
    GROUP BY m.entity, m.entity_key, m.first_id ORDER BY m.first_id
    """,
    (*_CHOSEN_TYPES, "int"),
)


def read_open_entities(session: Session, chosen: Chosen, *, limit: int) -> list[OpenLetters]:
    """The entities of the chosen letters with all that is dead or waits of them, longest first."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [OpenLetters(*row) for row in session.run(READ_OPEN_ENTITIES, *_values(chosen), limit)]


COUNT_PARKED = Statement("count_parked", "SELECT count(*) FROM sluice.parked_entities")


def count_parked(session: Session) -> int:
    """How many entities are parked."""
    ((count,),) = session.run(COUNT_PARKED)
    return int(count)


def _values(chosen: Chosen) -> tuple[Any, ...]:
    return (None if chosen.ids is None else bare_array(chosen.ids), *chosen[1:])
