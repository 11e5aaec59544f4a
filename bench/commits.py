"""Reads the commit times of a run from Postgres after the run, and verifies the results.

Postgres stores the time of each commit just before it flushes the commit to disk, so the times do
not include the flush.

Postgres uses the same clock as the senders. So no process has to observe the commits: an observer
would cost CPU.
"""

from dataclasses import dataclass

from bench.contenders import Layout
from bench.events import Expected
from sluice.db.connection import Session, Statement

MICROSECONDS = 1_000_000
_COMMITTED_AT = f"(extract(epoch FROM pg_xact_commit_timestamp(d.xmin)) * {MICROSECONDS})::bigint"


@dataclass(frozen=True)
class Verified:
    """Complaints about the results of a run in Postgres; empty if they are correct."""

    complaints: list[str]

    @property
    def ok(self) -> bool:
        """Returns True if there are no complaints."""
        return not self.complaints


def count_begun(session: Session, layout: Layout) -> int:
    """Returns the number of outbox ids drawn so far, which is cheap to read.

    This number is ahead of the commits by at most one batch per worker.
    """
    statement = Statement("begun", f"SELECT last_value, is_called FROM {layout.sequence}")
    ((last, is_called),) = session.run(statement)
    return int(last) if is_called else 0


def count_identities(session: Session, layout: Layout) -> int:
    """Returns the number of events committed so far."""
    ((count,),) = session.run(Statement("identities", f"SELECT count(*) FROM {layout.identities}"))
    return int(count)


def read_commit_times(session: Session, layout: Layout) -> list[float]:
    """Returns the commit times of transactions that wrote identities, in order, in seconds since 1970."""
    statement = Statement(
        "commit_times",
        f"SELECT {_COMMITTED_AT} FROM (SELECT DISTINCT xmin FROM {layout.identities}) d ORDER BY 1",
    )
    return [at / MICROSECONDS for (at,) in session.run(statement)]


def read_queue_commit_times(session: Session, queues: tuple[str, ...]) -> list[float]:
    """Returns the commit times of transactions that wrote outgoing events of these queues of Sluice."""
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
    """Returns the commit time of each event by its id, in seconds since 1970."""
    statement = Statement("event_times", f"SELECT d.event_id, {_COMMITTED_AT} FROM {layout.identities} d")
    return {event_id: at / MICROSECONDS for event_id, at in session.run(statement)}


def verify(session: Session, layout: Layout, expected: Expected) -> Verified:
    """Compares rows, identities and outgoing events with the expected result of the events."""
    rows = session.run(Statement("rows", f"SELECT key, version FROM {layout.rows}"))
    complaints = [] if dict(rows) == expected.versions and len(rows) == len(expected.versions) else ["rows"]
    for what, table in (("identities", layout.identities), ("outgoing events", layout.outbox)):
        statement = Statement(f"verify {what}", f"SELECT count(*), count(DISTINCT event_id) FROM {table}")
        ((count, distinct),) = session.run(statement)
        if (count, distinct) != (expected.events, expected.events):
            complaints.append(f"{count} {what}, {distinct} of them distinct, of {expected.events} events")
    return Verified(complaints)
