"""Stores records that could not be applied, with the reasons. Also stores the parked entities."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sluice.db.connection import Session, Statement
from sluice.db.records import DeadLetterRow, LetterState, Outcome
from sluice.db.values import bare_array, text_array

LETTER_TYPES = {
    "topic": "text",
    "topic_id": "text",
    "partition": "int",
    "offset": "bigint",
    "timestamp_ms": "bigint",
    "key": "text",
    "value": "text",
    "headers": "text",
    "entity_key": "text",
    "identity": "uuid",
    "event_id": "text",
    "type": "text",
    "source": "text",
    "outcome": "text",
    "error_class": "text",
    "error_text": "text",
    "flaw": "text",
    "format": "smallint",
    "traceback": "text",
}
"""Column → Postgres type, for the columns of a DeadLetterRow."""
LETTER_NAMES = ", ".join(f'"{name}"' for name in LETTER_TYPES)
LETTER_ARRAYS = tuple(f"{kind}[]" for kind in LETTER_TYPES.values())
_AS_STORED = {
    **{name: f"decode(d.{name}, 'hex')" for name in ("key", "value")},
    **{name: f"d.{name}::jsonb" for name in ("headers", "flaw")},
}
LETTER_VALUES = ", ".join(_AS_STORED.get(name, f'd."{name}"') for name in LETTER_TYPES)
"""The same columns of a row `d`, converted to the types of the tables of letters."""
LETTER_STATE = "CASE d.outcome WHEN 'waiting' THEN 'waiting' ELSE 'dead' END"


def numbered(first: int, count: int) -> str:
    """Returns a list of statement parameters: `$3, $4, …`."""
    return ", ".join(f"${number}" for number in range(first, first + count))


def letter_arrays(rows: Iterable[DeadLetterRow]) -> list[str]:
    """Returns the values of LETTER_TYPES, one array per column. Requires at least one row."""
    columns = zip(DeadLetterRow._fields, zip(*rows, strict=True), strict=True)
    values = {name: (text_array if LETTER_TYPES[name] == "text" else bare_array)(of) for name, of in columns}
    return [values[name] for name in LETTER_TYPES]


# A record that is read again in another epoch gets no second letter. Ids increase in the order of the
# records.
INSERT_DEAD_LETTERS = Statement(
    "insert_dead_letters",
    f"""
    INSERT INTO sluice.dead_letters (queue, entity, {LETTER_NAMES}, state)
    SELECT $1, $2, {LETTER_VALUES}, {LETTER_STATE}
    FROM unnest({numbered(3, len(LETTER_TYPES))}) WITH ORDINALITY AS d ({LETTER_NAMES}, n)
    ON CONFLICT (topic_id, partition, "offset") DO NOTHING
    """,
    ("text", "text", *LETTER_ARRAYS),
)


def insert_dead_letters(session: Session, queue: str, entity: str, rows: Sequence[DeadLetterRow]) -> None:
    """Stores letters for records that died, conflicted or wait, in this order. Idempotent.

    Requires the queue's lock.
    """
    if rows:
        session.run(INSERT_DEAD_LETTERS, queue, entity, *letter_arrays(rows))


class LetterPlace(NamedTuple):
    """The place of a record that has a letter, and what became of the record."""

    topic_id: str
    partition: int
    offset: int
    timestamp_ms: int
    outcome: str
    state: str


# Each array holds few different values, except the offsets, so the index is read once per offset. A join
# would hash the whole table.
LOAD_LETTER_PLACES = Statement(
    "load_letter_places",
    """
    SELECT topic_id, partition, "offset", timestamp_ms, outcome, state FROM sluice.dead_letters
    WHERE topic_id = ANY ($1) AND partition = ANY ($2) AND "offset" = ANY ($3)
    """,
    ("text[]", "int[]", "bigint[]"),
)


def load_letter_places(
    session: Session, places: Collection[tuple[str, int, int]]
) -> dict[tuple[str, int, int], LetterPlace]:
    """Returns place → letter, for the records at these places that have a letter in any state.

    Each place is (topic id, partition, offset). If an accepted log has another record at a place, its time
    differs.
    """
    if not places:
        return {}
    topic_ids, partitions, offsets = (sorted(set(column)) for column in zip(*places, strict=True))
    rows = session.run(LOAD_LETTER_PLACES, text_array(topic_ids), bare_array(partitions), bare_array(offsets))
    found = (LetterPlace(*row) for row in rows)
    return {one[:3]: one for one in found if one[:3] in places}


class Letter(NamedTuple):
    """One record that was not applied, as read from Kafka. `headers` is a JSON text with values in hex.

    `flaw` is a JSON object that describes the missing parts; None if the record is whole.
    """

    id: int
    topic: str
    topic_id: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: str
    identity: UUID
    outcome: str
    state: str
    format: int
    flaw: str | None


LETTER_COLUMNS = """id, topic, topic_id, partition, "offset", timestamp_ms, key, value, headers::text,
    identity, outcome, state, format, flaw::text"""
# Conflicts are not locked here, because no letter waits behind them.
LOCK_LETTERS = Statement(
    "lock_letters",
    f"""
    SELECT {LETTER_COLUMNS} FROM sluice.dead_letters
    WHERE entity = $1 AND entity_key = $2 AND state = ANY ($3) AND outcome <> 'conflict'
    ORDER BY id LIMIT $4 FOR UPDATE
    """,
    ("text", "text", "text[]", "int"),
)
OPEN = (LetterState.DEAD, LetterState.WAITING)
LOCK_LETTER = Statement(
    "lock_letter",
    f"SELECT {LETTER_COLUMNS} FROM sluice.dead_letters WHERE id = $1 FOR UPDATE",
    ("bigint",),
)


def lock_letters(
    session: Session, entity: str, key: str, limit: int, states: Sequence[LetterState] = OPEN
) -> list[Letter]:
    """Locks and returns an entity's dead and waiting letters, oldest first. Requires the queue's lock."""
    return [letter_of(row) for row in session.run(LOCK_LETTERS, entity, key, text_array(states), limit)]


def lock_letter(session: Session, letter_id: int) -> Letter | None:
    """Locks and returns one letter. Requires the queue's lock."""
    rows = session.run(LOCK_LETTER, letter_id)
    return letter_of(rows[0]) if rows else None


def letter_of(row: Sequence[Any]) -> Letter:
    """Returns the Letter of a row, with key and value as bytes."""
    found = Letter(*row)
    key, value = (None if part is None else bytes(part) for part in (found.key, found.value))
    return found._replace(key=key, value=value)


FINISH_LETTERS = Statement(
    "finish_letters",
    """
    UPDATE sluice.dead_letters SET state = $2, settled_at = now()
    WHERE id = ANY ($1) AND state IN ('dead', 'waiting')
    """,
    ("bigint[]", "text"),
)


def finish_letters(session: Session, ids: Sequence[int], state: LetterState) -> int:
    """Sets dead or waiting letters to done or dropped. Returns the number of changed letters. Idempotent.

    Requires the queue's lock.
    """
    return session.count(FINISH_LETTERS, bare_array(ids), state) if ids else 0


FAIL_LETTER = Statement(
    "fail_letter",
    """
    UPDATE sluice.dead_letters
    SET state = 'dead', outcome = $2, error_class = $3, error_text = $4, traceback = $5,
        attempts = attempts + 1
    WHERE id = $1
    """,
    ("bigint", "text", "text", "text", "text"),
)


def fail_letter(
    session: Session,
    letter_id: int,
    outcome: Outcome,
    error_class: str,
    error_text: str,
    traceback: str | None = None,
) -> None:
    """Stores the reason why a letter died again or conflicts. Requires the queue's lock."""
    session.run(FAIL_LETTER, letter_id, outcome, error_class, error_text, traceback)


LOAD_PARKED = Statement(
    "load_parked",
    "SELECT key FROM sluice.parked_entities WHERE entity = $1 AND key = ANY ($2)",
    ("text", "text[]"),
)


def load_parked(session: Session, entity: str, keys: Sequence[str]) -> set[str]:
    """Returns the keys of parked entities. Requires the queue's lock."""
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
    """Parks entities, which are given as (key, reason). Idempotent. Requires the queue's lock."""
    if reasons:
        keys, texts = zip(*reasons, strict=True)
        session.run(INSERT_PARKED, entity, queue, text_array(keys), text_array(texts))


UNPARK = Statement(
    "unpark",
    """
    DELETE FROM sluice.parked_entities p
    WHERE p.entity = $1 AND p.key = $2
      -- A conflict has a letter, but no other letter waits behind it.
      AND NOT EXISTS (
          SELECT FROM sluice.dead_letters d
          WHERE d.entity = $1 AND d.entity_key = $2 AND d.state IN ('dead', 'waiting')
            AND d.outcome <> 'conflict'
            -- No letter waits behind a dead event of a topic that skips failures.
            AND NOT (d.state = 'dead' AND d.topic = ANY ($3))
      )
    """,
    ("text", "text", "text[]"),
)


def unpark_if_clear(session: Session, entity: str, key: str, skipping: Collection[str] = ()) -> bool:
    """Unparks the entity if no letter keeps it parked. Returns True if the state changed.

    Requires the queue's lock. A dead letter of a topic in `skipping` does not keep its entity parked.
    """
    return session.count(UNPARK, entity, key, text_array(skipping)) == 1
