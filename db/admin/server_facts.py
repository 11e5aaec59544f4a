"""Reads facts about the Postgres server for `sluice doctor`: what delays commits, vacuum and statements."""

from typing import NamedTuple

from sluice.db.advisory_locks import LockPurpose, lock_text
from sluice.db.connection import Session, Statement

MOST_HORIZONS = 20
_QUERY_CHARACTERS = 100


class Horizon(NamedTuple):
    """A session or another object that keeps vacuum from removing rows that were deleted after its start."""

    kind: str
    """One of session, prepared, slot and standby."""
    name: str
    """A process id, a transaction's name, a slot's name or a standby's name."""
    application: str | None
    user: str | None
    state: str | None
    query: str | None
    seconds: float | None
    """Time since its start.

    None for slots and standbys, and for sessions that the role may not read.
    """
    transactions: int
    """Number of transactions of the server that began after it."""


# Snapshots of other databases do not count. Snapshots of slots and standbys count for all databases.
READ_HORIZONS = Statement(
    "read_horizons",
    f"""
    SELECT * FROM (
        SELECT 'session' AS kind, pid::text AS name, application_name, usename::text, state,
               left(query, {_QUERY_CHARACTERS}), extract(epoch FROM now() - xact_start)::float8 AS seconds,
               greatest(age(backend_xmin), age(backend_xid)) AS transactions
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
          AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
          -- A running vacuum does not delay other vacuums.
          AND backend_type IS DISTINCT FROM 'autovacuum worker'
        UNION ALL
        SELECT 'prepared', gid, NULL, owner::text, NULL, NULL,
               extract(epoch FROM now() - prepared)::float8, age(transaction)
        FROM pg_prepared_xacts WHERE database = current_database()
        UNION ALL
        SELECT 'slot', slot_name::text, NULL, NULL, CASE WHEN active THEN 'active' ELSE 'inactive' END, NULL,
               NULL, greatest(age(xmin), age(catalog_xmin))
        FROM pg_replication_slots
        WHERE (xmin IS NOT NULL OR catalog_xmin IS NOT NULL)
          AND (database IS NULL OR database = current_database())
        UNION ALL
        SELECT 'standby', coalesce(nullif(application_name, ''), pid::text), NULL, usename::text, state, NULL,
               NULL, age(backend_xmin)
        FROM pg_stat_replication WHERE backend_xmin IS NOT NULL
    ) horizons
    ORDER BY seconds DESC NULLS LAST, transactions DESC LIMIT {MOST_HORIZONS}
    """,
)


def read_horizons(session: Session) -> list[Horizon]:
    """Returns the objects that keep vacuum from cleaning this database, oldest first."""
    return [Horizon(*row) for row in session.run(READ_HORIZONS)]


class Replication(NamedTuple):
    """The standbys for which commits of this database wait."""

    standby_names: str
    """The setting synchronous_standby_names; empty: commits wait for no standby."""
    connected: int
    """The number of connected standbys that the setting names."""
    waiting: int
    """The number of commits of this database that wait for a standby now."""
    seconds: float
    """The longest wait of these commits."""


NO_REPLICATION = Replication("", 0, 0, 0.0)

READ_REPLICATION = Statement(
    "read_replication",
    """
    SELECT current_setting('synchronous_standby_names'),
           (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum', 'potential')),
           count(*), coalesce(extract(epoch FROM now() - min(query_start)), 0)::float8
    FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'
    """,
)


def read_replication(session: Session) -> Replication:
    """Returns the standbys for which commits wait now."""
    return Replication(*session.run(READ_REPLICATION)[0])


# Finds the session of the active beat by the beat's lock. `try_lead` runs every second in this session.
READ_BEAT = Statement(
    "read_beat",
    f"""
    SELECT coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::float8
    FROM pg_locks l
    JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
    JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.objid = 0
      AND l.classid::bigint = hashtext({lock_text(LockPurpose.BEAT)})::bigint & 4294967295
    """,
)


def read_beat_silence(session: Session) -> float | None:
    """Returns the seconds since the last statement of the active beat; None if no beat is active."""
    rows = session.run(READ_BEAT)
    return float(rows[0][0]) if rows else None


class Blocker(NamedTuple):
    """A session of another program that blocks a session of Sluice. The pid 0 is a prepared transaction."""

    pid: int
    application: str | None
    user: str | None
    state: str | None
    query: str | None
    seconds: float | None


READ_BLOCKERS = Statement(
    "read_lock_blockers",
    f"""
    SELECT DISTINCT b.pid, a.application_name, a.usename::text, a.state, left(a.query, {_QUERY_CHARACTERS}),
           extract(epoch FROM now() - a.xact_start)::float8
    FROM pg_stat_activity w
    CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b (pid)
    LEFT JOIN pg_stat_activity a ON a.pid = b.pid
    WHERE w.datname = current_database() AND w.wait_event_type = 'Lock'
      AND starts_with(w.application_name, 'sluice')
      AND NOT starts_with(coalesce(a.application_name, ''), 'sluice')
    ORDER BY 1
    """,
)


def read_blockers(session: Session) -> list[Blocker]:
    """Returns the sessions of other programs that block sessions of Sluice now."""
    return [Blocker(*row) for row in session.run(READ_BLOCKERS)]
