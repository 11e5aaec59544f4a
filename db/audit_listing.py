"""`audit` for an operator to look at."""

from datetime import datetime
from typing import Any, NamedTuple

from db.session import Session, Statement


class AuditRow(NamedTuple):
    """One thing somebody decided by hand."""

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
    """Newest first. `verb` is a command, as in "dlq drop", or a group of them, as in "dlq"."""
    return [AuditRow(*row) for row in session.run(READ_AUDITS, verb, subject, limit)]
