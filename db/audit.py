"""`audit`: what operators decided by hand, and why, in the transaction that does it."""

from collections.abc import Sequence
from typing import NamedTuple

from db.arrays import text_array
from db.session import Session, Statement


class Decision(NamedTuple):
    """Who does what for which reason: `verb` is the command, as in "effects retry"."""

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
    """One row per subject, what it is done to, with details as JSON text. In the transaction that does it."""
    if subjects:
        session.run(
            INSERT_AUDITS,
            *decision,
            text_array(subject for subject, _ in subjects),
            text_array(details for _, details in subjects),
        )
