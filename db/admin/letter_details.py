"""Reads whole letters, and the letters that wait behind a letter."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sluice.db.admin.letters import CHOSEN, CHOSEN_TYPES, LISTED, Chosen, chosen_values
from sluice.db.admin.outbox_admin import LOOKING
from sluice.db.connection import Session, Statement


class WholeLetter(NamedTuple):
    """All columns of a letter. `headers` are pairs of a name and a value; the value is in hex."""

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
    flaw: dict[str, Any] | None = None
    """The missing part of the record; None if the whole record is stored."""
    traceback: str | None = None
    """The frames of the handler that raised the error, as text; None if the error is not from a handler."""
    retry: dict[str, Any] | None = None
    """The state of the retries of an event that was set aside; None if the event is not retried."""

    @property
    def is_cut(self) -> bool:
        """Returns True if the value is not stored, because the record is large, skipped or erased."""
        return lacks_value(self.flaw)


def lacks_value(flaw: Mapping[str, Any] | None) -> bool:
    """Returns True if the flaw means that the value of the record is not stored."""
    return flaw is not None and not {"sha256", "skipped", "erased"}.isdisjoint(flaw)


class WaitingLetter(NamedTuple):
    """A letter that waits behind an earlier letter of its entity."""

    id: int
    topic: str
    partition: int
    offset: int
    type: str | None


_WHOLE = f"""{LISTED}, d.topic_id, d.queue, d.identity, d.event_id, d.source, d.timestamp_ms, d.created_at,
    d.settled_at, d.headers, d.key, d.value,
    (SELECT p.reason FROM sluice.parked_entities p WHERE p.entity = d.entity AND p.key = d.entity_key),
    d.flaw,
    d.traceback,
    (SELECT jsonb_build_object(
        'kind', r.kind, 'attempts', r.attempts, 'counted_time_outs', r.failures,
        'set_aside_at', r.set_aside_at, 'retry_at', r.retry_at, 'blockers', r.blockers,
        'blockers_at', r.blockers_at
     ) FROM sluice.retries r WHERE r.letter_id = d.id AND d.state = 'waiting')"""
READ_WHOLE_LETTERS = Statement(
    "read_whole_letters",
    f"SELECT {_WHOLE} FROM sluice.dead_letters d WHERE {CHOSEN} AND d.id > $9 ORDER BY d.id LIMIT $10",
    (*CHOSEN_TYPES, "bigint", "int"),
)


def read_whole_letters(session: Session, chosen: Chosen, *, after: int, limit: int) -> list[WholeLetter]:
    """Returns whole letters in the order of their ids, after the id `after`.

    A letter may contain megabytes, so request only a few letters.
    """
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [
            WholeLetter(*row) for row in session.run(READ_WHOLE_LETTERS, *chosen_values(chosen), after, limit)
        ]


READ_BEHIND = Statement(
    "read_behind",
    """
    SELECT id, topic, partition, "offset", type FROM sluice.dead_letters
    WHERE entity = $1 AND entity_key = $2 AND id > $3 AND state = 'waiting'
    ORDER BY id LIMIT $4
    """,
    ("text", "text", "bigint", "int"),
)


def read_behind(session: Session, letter: WholeLetter, *, limit: int) -> list[WaitingLetter]:
    """Returns the first letters that wait behind a letter of their entity."""
    rows = session.run(READ_BEHIND, letter.entity, letter.entity_key, letter.id, limit)
    return [WaitingLetter(*row) for row in rows]


COUNT_BEHIND = Statement(
    "count_behind",
    """
    SELECT count(*) FROM sluice.dead_letters
    WHERE entity = $1 AND entity_key = $2 AND id > $3 AND state = 'waiting'
    """,
    ("text", "text", "bigint"),
)


def count_behind(session: Session, letter: WholeLetter) -> int:
    """Returns the number of letters that wait behind the letter."""
    ((count,),) = session.run(COUNT_BEHIND, letter.entity, letter.entity_key, letter.id)
    return int(count)


READ_WHOLE_PROJECTION_LETTER = Statement(
    "read_whole_projection_letter",
    """
    SELECT to_jsonb(l) - ARRAY['key', 'value', 'headers'], l.headers, l.key, l.value
    FROM sluice.projection_letters l WHERE l.id = $1
    """,
    ("bigint",),
)


class WholeProjectionLetter(NamedTuple):
    """A letter of a generation: its columns, and the record in the form of WholeLetter."""

    columns: dict[str, Any]
    headers: list[tuple[str, str | None]]
    key: memoryview | None
    value: memoryview | None


def read_whole_projection_letter(session: Session, number: int) -> WholeProjectionLetter | None:
    """Returns the letter of a generation with this id; None if no letter has this id."""
    rows = session.run(READ_WHOLE_PROJECTION_LETTER, number)
    return WholeProjectionLetter(*rows[0]) if rows else None
