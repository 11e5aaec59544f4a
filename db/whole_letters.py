"""One dead letter whole, and what waits behind it."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from db.letter_listing import CHOSEN, CHOSEN_TYPES, LISTED, Chosen, ListedLetter, chosen_values
from db.outbox_listing import LOOKING
from db.session import Session, Statement


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


_WHOLE = f"""{LISTED}, d.topic_id, d.queue, d.identity, d.event_id, d.source, d.timestamp_ms, d.created_at,
    d.settled_at, d.headers, d.key, d.value,
    (SELECT p.reason FROM sluice.parked_entities p WHERE p.entity = d.entity AND p.key = d.entity_key)"""
READ_WHOLE_LETTERS = Statement(
    "read_whole_letters",
    f"SELECT {_WHOLE} FROM sluice.dead_letters d WHERE {CHOSEN} AND d.id > $9 ORDER BY d.id LIMIT $10",
    (*CHOSEN_TYPES, "bigint", "int"),
)


def read_whole_letters(session: Session, chosen: Chosen, *, after: int, limit: int) -> list[WholeLetter]:
    """Letters whole, by id; those after `after`. Each may hold megabytes: ask for few."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [
            WholeLetter(*row) for row in session.run(READ_WHOLE_LETTERS, *chosen_values(chosen), after, limit)
        ]


READ_BEHIND = Statement(
    "read_behind",
    f"""
    SELECT {LISTED} FROM sluice.dead_letters d
    WHERE d.entity = $1 AND d.entity_key = $2 AND d.id > $3 AND d.state = 'waiting'
    ORDER BY d.id LIMIT $4
    """,
    ("text", "text", "bigint", "int"),
)


def read_behind(session: Session, letter: WholeLetter, *, limit: int) -> list[ListedLetter]:
    """The first of those that wait behind a letter."""
    rows = session.run(READ_BEHIND, letter.entity, letter.entity_key, letter.id, limit)
    return [ListedLetter(*row) for row in rows]
