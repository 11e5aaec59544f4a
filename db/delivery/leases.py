"""Leases of queues: session locks in Postgres, which end with the session of their worker.

Leases only increase the speed: without a lease, a worker waits for the queue's row lock, and is correct too.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from sluice.db.advisory_locks import LockPurpose, lock_text
from sluice.db.connection import Session, Statement
from sluice.db.values import text_array

LEASE_SETTINGS = {
    # A worker whose process or machine has stopped loses its queues after this time. Running workers send two
    # queries per second.
    "idle_session_timeout": "5s",
    "tcp_keepalives_idle": "3s",
    "tcp_keepalives_interval": "1s",
    "tcp_keepalives_count": "3",
}

# All members share one lock. Keys of queues have 64 bits: only one worker could serve queues of equal keys.
_WORKERS = f"hashtext({lock_text(LockPurpose.WORKER)})"
_MEMBER = f"{_WORKERS}, 0"
_KEY = f"hashtextextended({lock_text(LockPurpose.LEASE, ' ')} || {{queue}}, 0)"
_OURS = "l.locktype = 'advisory' AND l.granted AND l.database = d.oid"
_IS_MEMBER = f"{_OURS} AND l.objsubid = 2 AND l.objid = 0 AND l.classid::bigint = d.member"
_HERE = f"""
    SELECT oid, {_WORKERS}::bigint & 4294967295 AS member
    FROM pg_database WHERE datname = current_database()
"""


class Lease(NamedTuple):
    """A queue, and the process id of the Postgres session that holds its lease (None if it is free).

    A retired queue existed before a re-routing of its entity type. No bridge sends to it any more.
    """

    queue: str
    retired: bool
    holder: int | None


class Declared(NamedTuple):
    """The declarations of a worker, its newest format, and the queues that it has given back for a while."""

    topics: Mapping[str, frozenset[str]]
    """Entity type → its topics."""
    format: int
    yielded: frozenset[str] = frozenset()


NOTHING_DECLARED = Declared({}, 0)
"""The declaration of a member that has not written a heartbeat yet."""


@dataclass(frozen=True)
class LeaseSnapshot:
    """All members and leases in one snapshot. `me` is the process id of this session."""

    me: int
    members: frozenset[int]
    leases: tuple[Lease, ...]
    declared: Mapping[int, Declared] = field(default_factory=dict)
    """Member → its declaration. Members without a row are missing."""
    topics: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Entity type → its registered topics."""

    def of(self, member: int) -> Declared:
        """Returns the declaration of a member."""
        return self.declared.get(member, NOTHING_DECLARED)

    def with_yielded(self, queues: Iterable[str]) -> "LeaseSnapshot":
        """Returns a copy of the snapshot in which this worker has given back exactly these queues."""
        mine = self.of(self.me)._replace(yielded=frozenset(queues))
        return replace(self, declared={**self.declared, self.me: mine})


JOIN_WORKERS = Statement("join_workers", f"SELECT pg_try_advisory_lock_shared({_MEMBER})")

FORGET_WORKERS = Statement(
    "forget_workers",
    f"""
    DELETE FROM sluice.workers w
    WHERE NOT EXISTS (SELECT FROM pg_locks l, ({_HERE}) d WHERE {_IS_MEMBER} AND l.pid = w.backend_pid)
    """,
)


def join_workers(session: Session) -> None:
    """Makes the session a member until it ends. Deletes rows of ended members. Call it once per session."""
    session.run(JOIN_WORKERS)
    session.run(FORGET_WORKERS)


# MATERIALIZED makes the statement read the view of all locks once, and not once per queue.
READ_LEASE_SNAPSHOT = Statement(
    "read_standing_leases",
    f"""
    WITH d AS ({_HERE}), held AS MATERIALIZED (
        SELECT l.pid, (l.classid::bigint << 32) | l.objid::bigint AS key, l.objsubid,
               {_IS_MEMBER} AS is_member
        FROM pg_locks l, d WHERE {_OURS}
    )
    SELECT pg_backend_pid(), (SELECT array_agg(pid) FROM held WHERE is_member),
           q.queue, substring(q.queue FROM '[0-9]+$')::int >= e.shards, h.pid
    FROM d LEFT JOIN sluice.queues q ON true LEFT JOIN sluice.entities e USING (entity)
    LEFT JOIN held h ON h.objsubid = 1 AND h.key = {_KEY.format(queue="q.queue")}
    ORDER BY q.queue
    """,
)
# A separate statement, because one statement would return these rows again for each queue.
READ_DECLARED = Statement(
    "read_declared",
    """
    SELECT w.backend_pid, w.declared, w.format, w.yielded, t.topics
    FROM (SELECT coalesce(jsonb_object_agg(topic, entity), '{}') AS topics FROM sluice.topics) t
    LEFT JOIN sluice.workers w ON true
    """,
)


def read_lease_snapshot(session: Session) -> LeaseSnapshot:
    """Returns all queues with their holders, and all members with their declarations."""
    rows = session.run(READ_LEASE_SNAPSHOT)
    me, found = rows[0][:2]
    members = frozenset(found or ())
    leases = tuple(Lease(*row[2:]) for row in rows if row[2] is not None)
    stated = session.run(READ_DECLARED)
    topics: dict[str, set[str]] = {}
    for topic, entity in stated[0][4].items():
        topics.setdefault(entity, set()).add(topic)
    declared = {
        pid: Declared({name: frozenset(of) for name, of in entities.items()}, version, frozenset(yielded))
        for pid, entities, version, yielded, _ in stated
        if pid in members
    }
    return LeaseSnapshot(me, members, leases, declared, {name: frozenset(of) for name, of in topics.items()})


TRY_LEASE = Statement("try_lease", f"SELECT pg_try_advisory_lock({_KEY.format(queue='$1')})", ("text",))


def try_lease(session: Session, queue: str) -> bool:
    """Takes the queue's lease. Returns True if the session holds the lease now.

    Not idempotent: `end_lease` must be called once for each success.
    """
    ((taken,),) = session.run(TRY_LEASE, queue)
    return bool(taken)


END_LEASE = Statement("end_lease", f"SELECT pg_advisory_unlock({_KEY.format(queue='$1')})", ("text",))


def end_lease(session: Session, queue: str) -> None:
    """Ends one lease that `try_lease` has taken."""
    session.run(END_LEASE, queue)


class Heartbeat(NamedTuple):
    """The state that a worker reports. Ages are in seconds; None if there was no such action."""

    node: str
    process_id: int
    leases: Mapping[str, float]
    """Queue → the age of its lease."""
    busy_queue: str | None
    busy_age: float | None
    last_queue: str | None
    last_age: float | None
    last_records: int | None
    last_seconds: float | None
    declared: Mapping[str, Iterable[str]] = MappingProxyType({})
    """Entity type → topics, as the worker's code declares them."""
    format: int = 1
    """The newest format of messages that the worker reads."""
    yielded: frozenset[str] = frozenset()
    """Queues that the worker has given back for a while, because it cannot apply all their records."""


_AGO = "now() - {age} * interval '1 second'"

WRITE_HEARTBEAT = Statement(
    "write_heartbeat",
    f"""
    INSERT INTO sluice.workers AS w
        (backend_pid, node, process_id, leases, busy_queue, busy_since, last_queue, last_at, last_records,
         last_seconds, declared, format, yielded)
    SELECT pg_backend_pid(), $1, $2,
           (SELECT coalesce(jsonb_object_agg(k.key, {_AGO.format(age="k.value::float8")}), '{{}}')
            FROM jsonb_each_text($3) k),
           $4, {_AGO.format(age="$5")}, $6, {_AGO.format(age="$7")}, $8, $9, $10, $11, $12
    ON CONFLICT (backend_pid) DO UPDATE SET
        node = excluded.node, process_id = excluded.process_id, leases = excluded.leases,
        busy_queue = excluded.busy_queue, busy_since = excluded.busy_since, last_queue = excluded.last_queue,
        last_at = excluded.last_at, last_records = excluded.last_records,
        last_seconds = excluded.last_seconds, declared = excluded.declared, format = excluded.format,
        yielded = excluded.yielded, heartbeat_at = now(),
        joined_at = CASE WHEN (w.node, w.process_id) = (excluded.node, excluded.process_id) THEN w.joined_at
                    ELSE excluded.joined_at END
    """,
    ("text", "int", "jsonb", "text", "float8", "text", "float8", "int", "float8", "jsonb", "int", "text[]"),
)


def write_heartbeat(session: Session, heartbeat: Heartbeat) -> None:
    """Writes this session's row. Idempotent.

    Other workers read only `declared`, `format` and `yielded`. The other fields are for operators.
    """
    session.run(
        WRITE_HEARTBEAT,
        heartbeat.node,
        heartbeat.process_id,
        json.dumps(heartbeat.leases),
        *heartbeat[3:9],
        json.dumps({entity: sorted(topics) for entity, topics in heartbeat.declared.items()}),
        heartbeat.format,
        text_array(sorted(heartbeat.yielded)),
    )


class Worker(NamedTuple):
    """A member, for operators. Its heartbeat may be a second old, but its leases are current."""

    backend_pid: int
    node: str
    process_id: int
    joined_at: datetime
    heartbeat_at: datetime
    leases: Mapping[str, datetime | None]
    """Queue → the start of its lease; None before the first heartbeat with this lease."""
    busy_queue: str | None
    busy_since: datetime | None
    last_queue: str | None
    last_at: datetime | None
    last_records: int | None
    last_seconds: float | None


@dataclass(frozen=True)
class Sharing:
    """The workers that share the queues, for operators. `at` is the time by the database's clock."""

    at: datetime
    leases: tuple[Lease, ...]
    workers: tuple[Worker, ...]

    def holders(self) -> dict[str, str]:
        """Returns queue → the node of the worker that holds its lease. Omits free queues."""
        nodes = {worker.backend_pid: worker.node for worker in self.workers}
        # A new holder may have no row yet, because it writes the row a moment after it took the lease.
        return {
            lease.queue: nodes.get(lease.holder, f"session {lease.holder}")
            for lease in self.leases
            if lease.holder is not None
        }

    def unheld(self) -> list[str]:
        """Returns the free queues, except retired queues."""
        return [lease.queue for lease in self.leases if lease.holder is None and not lease.retired]


# The outer join returns a row with the time even if there is no worker.
READ_WORKERS = Statement(
    "read_told_workers",
    """
    SELECT now_.at, w.backend_pid, w.node, w.process_id, w.joined_at, w.heartbeat_at, w.leases, w.busy_queue,
           w.busy_since, w.last_queue, w.last_at, w.last_records, w.last_seconds
    FROM (SELECT now() AS at) now_ LEFT JOIN sluice.workers w ON true
    ORDER BY w.node, w.process_id
    """,
)


def read_workers(session: Session) -> Sharing:
    """Returns all leases, and the last heartbeat of each member."""
    snapshot = read_lease_snapshot(session)
    rows = session.run(READ_WORKERS)
    workers = []
    for _, pid, node, process_id, joined_at, heartbeat_at, leases, *doing in rows:
        if pid in snapshot.members:
            held = [lease.queue for lease in snapshot.leases if lease.holder == pid]
            since = {q: datetime.fromisoformat(leases[q]) if q in leases else None for q in held}
            workers.append(Worker(pid, node, process_id, joined_at, heartbeat_at, since, *doing))
    return Sharing(rows[0][0], snapshot.leases, tuple(workers))


TRY_LEAD = Statement("try_lead", f"SELECT pg_try_advisory_lock(hashtext({lock_text(LockPurpose.BEAT)}), 0)")


def try_lead(session: Session) -> bool:
    """Tries to make this session the leading beat. Returns True if it leads. Idempotent."""
    ((leads,),) = session.run(TRY_LEAD)
    return bool(leads)
