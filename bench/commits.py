"""Reads the commit times of a run from Postgres after the run, and verifies the results.

Postgres stores the time of each commit just before it flushes the commit to disk, so the times do
not include the flush.

Postgres uses the same clock as the senders. So no process has to observe the commits: an observer
would cost CPU.
"""

from bench.app import TOPIC
from bench.contenders import Layout
from bench.events import Expected
from sluice.db.connection import Session, Statement

MICROSECONDS = 1_000_000
_COMMITTED_AT = f"(extract(epoch FROM pg_xact_commit_timestamp(d.xmin)) * {MICROSECONDS})::bigint"


def count_begun(session: Session, layout: Layout) -> int:
    """Returns the number of outbox ids drawn so far, which is cheap to read.

    This number is ahead of the commits by at most one batch per worker.
    """
    statement = Statement("begun", f"SELECT last_value, is_called FROM {layout.sequence}")
    ((last, is_called),) = session.run(statement)
    return int(last) if is_called else 0


def count_identities(session: Session, layout: Layout) -> int:
    """Returns the number of events committed so far."""
    statement = Statement("identities", f"SELECT count(*) FROM {layout.identities} WHERE topic = '{TOPIC}'")
    ((count,),) = session.run(statement)
    return int(count)


def count_outgoing(session: Session, layout: Layout) -> int:
    """Returns the number of outgoing events committed so far, unless a relay deletes them."""
    ((count,),) = session.run(Statement("outgoing", f"SELECT count(*) FROM {layout.outbox}"))
    return int(count)


def sum_versions(session: Session, layout: Layout) -> int:
    """Returns the sum of the versions of all rows, which rises with every applied event."""
    ((total,),) = session.run(Statement("versions", f"SELECT sum(version) FROM {layout.rows}"))
    return int(total or 0)


def read_commit_times(session: Session, layout: Layout) -> list[float]:
    """Returns the commit times of transactions that wrote identities, in order, in seconds since 1970.

    Without identities, these are the times of the newest transaction of each row.
    """
    table = layout.rows
    if layout.identities is not None:
        table = f"{layout.identities} WHERE topic = '{TOPIC}'"
    statement = Statement(
        "commit_times", f"SELECT {_COMMITTED_AT} FROM (SELECT DISTINCT xmin FROM {table}) d ORDER BY 1"
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


def verify(session: Session, layout: Layout, expected: Expected, *, writes: int = 1) -> list[str]:
    """Compares rows, identities and outgoing events with the expected result of the events.

    Returns the complaints. `writes` is the number of rows that each event wrote.
    """
    rows = session.run(Statement("rows", f"SELECT key, version FROM {layout.rows}"))
    complaints = [] if dict(rows) == expected.versions and len(rows) == len(expected.versions) else ["rows"]
    if layout.lines is not None and writes > 1:
        lines = session.run(Statement("lines", f"SELECT key, version FROM {layout.lines}"))
        if dict(lines) != expected_lines(expected, writes):
            complaints.append("lines")
    # An outbox without a relay, and identities without those of the bench itself.
    for what, table, condition, number in (
        ("identities", layout.identities, f"topic = '{TOPIC}'", expected.identities),
        ("outgoing events", layout.outbox, "true", expected.applied),
    ):
        if table is not None:
            text = f"SELECT count(*), count(DISTINCT event_id) FROM {table} WHERE {condition}"
            ((count, distinct),) = session.run(Statement(f"verify {what}", text))
            if (count, distinct) != (number, number):
                complaints.append(f"{count} {what}, {distinct} of them distinct, expected {number}")
    return complaints


def expected_lines(expected: Expected, writes: int) -> dict[str, int]:
    """Returns key → version of the further rows of events that write several rows."""
    return {
        f"{key}/{number}": version
        for key, version in expected.versions.items()
        for number in range(1, writes)
    }


def read_wal_bytes(session: Session) -> int:
    """Returns the bytes of WAL that the server has written so far."""
    ((written,),) = session.run(Statement("wal_bytes", "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))
    return int(written)
