"""`audit`: the decisions of operators with their reasons.

A decision is written in the transaction of its changes.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.values import text_array


class Decision(NamedTuple):
    """An operator's decision and its reason. `verb` is the command, as in "effects retry"."""

    actor: str
    verb: str
    reason: str


INSERT_AUDITS = Statement(
    "insert_audits",
    """
    INSERT INTO sluice.audit (actor, verb, reason, subject, details)
    SELECT $1, $2, $3, d.subject, d.details::jsonb
    FROM unnest($4, $5) WITH ORDINALITY AS d (subject, details, n)
    ORDER BY d.n
    """,
    ("text", "text", "text", "text[]", "text[]"),
)


def insert_audits(session: Session, decision: Decision, subjects: Sequence[tuple[str, str]]) -> None:
    """Writes one row per subject. Call it in the transaction of the change. The details are JSON text."""
    if subjects:
        session.run(
            INSERT_AUDITS,
            *decision,
            text_array(subject for subject, _ in subjects),
            text_array(details for _, details in subjects),
        )


class AuditRow(NamedTuple):
    """One decision of an operator."""

    id: int
    at: datetime
    actor: str
    verb: str
    subject: str
    reason: str
    details: dict[str, Any] | None


READ_AUDITS = Statement(
    "read_audits",
    """
    SELECT id, at, actor, verb, subject, reason, details FROM sluice.audit
    WHERE ($1 IS NULL OR verb = $1 OR starts_with(verb, $1 || ' ')) AND ($2 IS NULL OR subject = $2)
    ORDER BY id DESC LIMIT $3
    """,
    ("text", "text", "int"),
)


def read_audits(session: Session, *, verb: str | None, subject: str | None, limit: int) -> list[AuditRow]:
    """Returns decisions, newest first. `verb` is a command ("dlq drop") or a group of commands ("dlq")."""
    return [AuditRow(*row) for row in session.run(READ_AUDITS, verb, subject, limit)]
