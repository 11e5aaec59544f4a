"""Reads whole outgoing events and calls in order. Only for checkers and tests, because it reads all rows."""

from uuid import UUID

from sluice.db.connection import Session, Statement
from sluice.db.records import LedgerRow, OutboxRow, Outcome
from sluice.db.values import text_array

READ_OUTBOX_ROWS = Statement(
    "read_outbox_rows",
    """
    SELECT event_id, topic, key, type, version, headers::text, convert_from(payload, 'UTF8')
    FROM sluice.outbox_events ORDER BY id
    """,
)


def read_outbox_rows(session: Session) -> list[OutboxRow]:
    """Returns the waiting outgoing events, by id."""
    return [OutboxRow(UUID(str(row[0])), *row[1:]) for row in session.run(READ_OUTBOX_ROWS)]


READ_LEDGER_ROWS = Statement(
    "read_ledger_rows",
    """
    SELECT effect_key, effect, identity, entity_key, args::text, fingerprint, explicit_once
    FROM sluice.executed_side_effects ORDER BY id
    """,
)


def read_ledger_rows(session: Session) -> list[LedgerRow]:
    """Returns all calls, in the order in which they were stored."""
    return [LedgerRow(*row) for row in session.run(READ_LEDGER_ROWS)]


READ_OUTCOMES = Statement(
    "read_outcomes",
    """
    SELECT topic, "offset", outcome FROM sluice.processed_events WHERE topic = ANY ($1) AND partition = 0
    """,
    ("text[]",),
)


def read_outcomes(session: Session, topics: list[str]) -> dict[tuple[str, int], Outcome]:
    """Returns (topic, offset) → current outcome, for events of partition 0 that are not repeats."""
    rows = session.run(READ_OUTCOMES, text_array(topics))
    return {(topic, offset): Outcome(outcome) for topic, offset, outcome in rows}


END_CLAIMS = Statement(
    "end_claims", "UPDATE sluice.executed_side_effects SET claimed_until = now() WHERE state = 'running'"
)


def end_claims(session: Session) -> None:
    """Ends the claims of running calls at once, as if the claims had expired. Idempotent."""
    session.run(END_CLAIMS)
