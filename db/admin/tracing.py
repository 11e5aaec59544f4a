"""Reads all rows of Sluice's tables that follow from one event. Changes nothing."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sluice.db.admin.letters import SHOWN_STATE
from sluice.db.connection import Session, Statement
from sluice.db.values import bare_array


class TracedEvent(NamedTuple):
    """The event's row in `processed_events`. It belongs to the first record with this identity."""

    topic: str
    topic_id: str
    partition: int
    offset: int
    event_id: str | None
    outcome: str
    processed_at: datetime


READ_TRACED = Statement(
    "read_traced",
    """
    SELECT topic, topic_id, partition, "offset", event_id, outcome, processed_at
    FROM sluice.processed_events WHERE identity = $1
    """,
    ("uuid",),
)


def read_traced(session: Session, identity: UUID) -> TracedEvent | None:
    """Returns the event of an identity; None if the identity is unknown."""
    rows = session.run(READ_TRACED, identity)
    return TracedEvent(*rows[0]) if rows else None


class TracedCall(NamedTuple):
    """A call that the event caused."""

    effect_key: str
    effect: str
    state: str
    attempt: int
    error: str | None


READ_TRACED_CALLS = Statement(
    "read_traced_calls",
    """
    SELECT effect_key, effect, state, attempt, error FROM sluice.executed_side_effects
    WHERE effect_key = ANY ($1) ORDER BY id
    """,
    ("text[]",),
)


def read_traced_calls(session: Session, keys_array: str) -> list[TracedCall]:
    """Returns the calls of these effect keys."""
    return [TracedCall(*row) for row in session.run(READ_TRACED_CALLS, keys_array)]


# The event id needs no index, because a queue has few waiting rows.
READ_TRACED_EMITS = Statement(
    "read_traced_emits",
    """
    SELECT event_id FROM sluice.outbox_events WHERE queue = $1 AND event_id = ANY ($2)
    """,
    ("text", "uuid[]"),
)


def read_waiting_emits(session: Session, queue: str, event_ids: Sequence[UUID]) -> set[UUID]:
    """Returns the outgoing events of these ids that are not sent yet."""
    return {found for (found,) in session.run(READ_TRACED_EMITS, queue, bare_array(event_ids))}


class TracedLetter(NamedTuple):
    """The event's dead letter, and the letters before it."""

    id: int
    state: str
    outcome: str
    error_class: str
    error_text: str
    attempts: int
    before: int
    parked_for: str | None


READ_TRACED_LETTER = Statement(
    "read_traced_letter",
    f"""
    SELECT d.id, {SHOWN_STATE}, d.outcome, d.error_class, d.error_text, d.attempts,
           (SELECT count(*) FROM sluice.dead_letters b
            WHERE b.entity = d.entity AND b.entity_key = d.entity_key AND b.id < d.id
              AND b.state IN ('dead', 'waiting') AND b.outcome <> 'conflict'),
           (SELECT p.reason FROM sluice.parked_entities p WHERE p.entity = d.entity AND p.key = d.entity_key)
    FROM sluice.dead_letters d WHERE d.topic_id = $1 AND d.partition = $2 AND d."offset" = $3
    """,
    ("text", "int", "bigint"),
)


def read_traced_letter(session: Session, topic_id: str, partition: int, offset: int) -> TracedLetter | None:
    """Returns the letter of a record; None if the record has no letter."""
    rows = session.run(READ_TRACED_LETTER, topic_id, partition, offset)
    return TracedLetter(*rows[0]) if rows else None
