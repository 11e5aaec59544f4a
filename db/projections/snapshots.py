"""The snapshots of transactions of this database, and the oldest snapshot that may read a generation."""

from collections.abc import Sequence
from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.identifiers import USERS_SCHEMA
from sluice.db.values import text_array

_HALF, _ALL = 2**31, 2**32


class OpenTransaction(NamedTuple):
    """A transaction of a session, or a prepared transaction, for operators."""

    pid: int | None
    """None for a prepared transaction."""
    role: str | None
    name: str
    """The session's application, or the prepared transaction's identifier."""
    seconds: float | None
    """The age of the transaction; None if this role may not see it."""
    query: str | None
    """The session's last statement; None if this role may not see it."""


class SnapshotHolder(NamedTuple):
    """A transaction with a snapshot of the database."""

    key: str
    """The unique key of the transaction."""
    xmin: int
    """All transactions below this id had ended when the snapshot was taken.

    The snapshot may lack the writes of other transactions.
    """
    holder: OpenTransaction


def full_xid(xid: int, near: int) -> int:
    """Returns the 64-bit form of a 32-bit transaction id that is less than 2^31 away from `near`."""
    return near + (xid - near + _HALF) % _ALL - _HALF


READ_FILLED_XID = Statement(
    "read_filled_xid",
    """
    SELECT coalesce(max(filled_xid), 0) FROM sluice.generation_offsets
    WHERE projection = $1 AND generation = $2
    """,
    ("text", "int"),
)


def read_filled_xid(session: Session, projection: str, generation: int) -> int:
    """Returns the last transaction that wrote only into this generation, and not into the live generation.

    Returns 0 if there was no such transaction. A snapshot with a greater xmin contains the rows of all events
    in this generation that it contains in the live generation.
    """
    ((xid,),) = session.run(READ_FILLED_XID, projection, generation)
    return int(xid)


# Every role may read the xmin and the virtual transaction of all sessions. Only pg_read_all_stats allows to
# read age and query.
_SESSION = """a.pid, a.usename::text, a.application_name,
           extract(epoch FROM clock_timestamp() - a.xact_start)::float8,
           CASE WHEN a.xact_start IS NOT NULL THEN a.query END"""
_PREPARED = "p.owner::text, p.gid, extract(epoch FROM clock_timestamp() - p.prepared)::float8, NULL"

# Omits vacuum, because it does not read views, and autovacuum workers, which have no user.
READ_SNAPSHOTS = Statement(
    "read_snapshots",
    f"""
    SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, l.virtualtransaction,
           a.backend_xmin::text::bigint, {_SESSION}
    FROM pg_stat_activity a
    JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock'
    WHERE a.datname = current_database() AND a.backend_xmin IS NOT NULL AND a.usesysid IS NOT NULL
      AND a.pid <> pg_backend_pid()
      AND a.pid NOT IN (SELECT v.pid FROM pg_stat_progress_vacuum v)
    UNION ALL
    SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
           'prepared ' || p.transaction || ' ' || p.gid,
           p.transaction::text::bigint, NULL, {_PREPARED}
    FROM pg_prepared_xacts p WHERE p.database = current_database()
    """,
)


def read_snapshots(session: Session) -> list[SnapshotHolder]:
    """Returns the snapshots of other sessions in this database. Call it outside of a transaction."""
    return [
        SnapshotHolder(key, full_xid(xmin, near), OpenTransaction(*holder))
        for near, key, xmin, *holder in session.run(READ_SNAPSHOTS)
    ]


READ_LOCK_HOLDERS = Statement(
    "read_lock_holders",
    f"""
    WITH held AS (
        SELECT DISTINCT l.pid, l.virtualtransaction FROM pg_locks l
        JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
        WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND l.relation IN (
              SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = $1 AND c.relname = ANY ($2))
    )
    SELECT {_SESSION} FROM held JOIN pg_stat_activity a ON a.pid = held.pid
    UNION ALL
    SELECT NULL, {_PREPARED} FROM held
    JOIN pg_locks x ON x.virtualtransaction = held.virtualtransaction AND x.locktype = 'transactionid'
        AND x.pid IS NULL
    JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
    WHERE held.pid IS NULL
    """,
    ("text", "text[]"),
)


def read_lock_holders(session: Session, tables: Sequence[str]) -> list[OpenTransaction]:
    """Returns the transactions that hold a lock on one of these users' tables or views."""
    rows = session.run(READ_LOCK_HOLDERS, USERS_SCHEMA, text_array(tables))
    return [OpenTransaction(*row) for row in rows]
