"""`generation_reports`: what a comparison found, and who approved it."""

from datetime import datetime
from typing import Any, NamedTuple

from sluice.db.connection import Session, Statement


class Report(NamedTuple):
    """One stored comparison of a generation with the live one."""

    id: int
    projection: str
    generation: int
    against: int
    made_at: datetime
    differing: int
    report: dict[str, Any]
    approved_by: str | None
    approved_at: datetime | None


INSERT_REPORT = Statement(
    "insert_report",
    """
    INSERT INTO sluice.generation_reports (projection, generation, against, differing, report)
    VALUES ($1, $2, $3, $4, $5) RETURNING id
    """,
    ("text", "int", "int", "bigint", "jsonb"),
)


def insert_report(
    session: Session, projection: str, generation: int, against: int, differing: int, report: str
) -> int:
    """Stores a comparison (JSON text); its id."""
    ((number,),) = session.run(INSERT_REPORT, projection, generation, against, differing, report)
    return int(number)


READ_NEWEST_REPORT = Statement(
    "read_newest_report",
    f"""
    SELECT {", ".join(Report._fields)} FROM sluice.generation_reports
    WHERE projection = $1 AND generation = $2 ORDER BY id DESC LIMIT 1
    """,
    ("text", "int"),
)


def read_newest_report(session: Session, projection: str, generation: int) -> Report | None:
    """The last comparison of a generation; None: it was never compared."""
    rows = session.run(READ_NEWEST_REPORT, projection, generation)
    return Report(*rows[0]) if rows else None


APPROVE_REPORT = Statement(
    "approve_report",
    """
    UPDATE sluice.generation_reports SET approved_by = $2, approved_at = now()
    WHERE id = $1 AND approved_at IS NULL
    """,
    ("bigint", "text"),
)


def approve_report(session: Session, report_id: int, actor: str) -> bool:
    """The differences in it are wanted; whether that is news. May run twice."""
    return session.count(APPROVE_REPORT, report_id, actor) == 1
