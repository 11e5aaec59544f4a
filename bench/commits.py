"""What Postgres tells of a run afterwards: when each event was committed, and whether all is as it must be.

Postgres notes the time of each commit just before it flushes it, on the clock that the senders use. So the
times need no observer that would cost CPU; what they lack is the flush, which the bench measures by itself.
"""

from dataclasses import dataclass

from bench.contenders import Layout
from bench.events import Expected
from sluice.db.connection import Session, Statement

MICROSECONDS = 1_000_000
_COMMITTED_AT = f"(extract(epoch FROM pg_xact_commit_timestamp(d.xmin)) * {MICROSECONDS})::bigint"


@dataclass(frozen=True)
class Verified:
    """Complaints about what a run left in Postgres; none: it is as it must be."""

    complaints: list[str]

    @property
    def ok(self) -> bool:
        """Whether there are none."""
        return not self.complaints


def count_begun(session: Session, layout: Layout) -> int:
    """Outbox ids drawn so far: at most a batch ahead of what is committed, and free of cost."""
    statement = Statement("begun", f"SELECT last_value, is_called FROM {layout.sequence}")
    ((last, is_called),) = session.run(statement)
    return int(last) if is_called else 0


def count_identities(session: Session, layout: Layout) -> int:
    """Events committed so far."""
    ((count,),) = session.run(Statement("identities", f"SELECT count(*) FROM {layout.identities}"))
    return int(count)


def read_commit_times(session: Session, layout: Layout) -> list[float]:
    """When each transaction that wrote identities was committed, in order; seconds since 1970."""
    statement = Statement(
        "commit_times",
        f"SELECT {_COMMITTED_AT} FROM (SELECT DISTINCT xmin FROM {layout.identities}) d ORDER BY 1",
    )
    return [at / MICROSECONDS for (at,) in session.run(statement)]


def read_queue_commit_times(session: Session, queues: tuple[str, ...]) -> list[float]:
    """The same of those that wrote outgoing events of these queues of Sluice."""
    statement = Statement(
        "queue_commit_times",
        f"""
        SELECT {_COMMITTED_AT}
        FROM (SELECT DISTINCT xmin FROM sluice.outbox_events WHERE queue = ANY ($1)) d ORDER BY 1
        """,
        ("text[]",),
    )
    return [at / MICROSECONDS for (at,) in session.run(statement, list(queues))]


def read_event_times(session: Session, layout: Layout) -> dict[str, float]:
    """Event id → when it was committed."""
    statement = Statement("event_times", f"SELECT d.event_id, {_COMMITTED_AT} FROM {layout.identities} d")
    return {event_id: at / MICROSECONDS for event_id, at in session.run(statement)}


def verify(session: Session, layout: Layout, expected: Expected) -> Verified:
    """Compares rows, identities and outgoing events with what the events come to."""
    rows = session.run(Statement("rows", f"SELECT key, version FROM {layout.rows}"))
    complaints = [] if dict(rows) == expected.versions and len(rows) == len(expected.versions) else ["rows"]
    for what, table in (("identities", layout.identities), ("outgoing events", layout.outbox)):
        statement = Statement(f"verify {what}", f"SELECT count(*), count(DISTINCT event_id) FROM {table}")
        ((count, distinct),) = session.run(statement)
        if (count, distinct) != (expected.events, expected.events):
            complaints.append(f"{count} {what}, {distinct} of them distinct, of {expected.events} events")
    return Verified(complaints)
