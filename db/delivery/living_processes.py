"""`processes`: formats and declarations of bridges, workers and beats.

A process with a recent heartbeat counts as running. A heartbeat is used instead of a lock, because it needs
no permanent connection and works through a pooler. Correctness does not depend on heartbeats: a wrong result
only costs time.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from uuid import UUID

from sluice.db.connection import Session, Statement
from sluice.db.records import ProcessKind
from sluice.db.values import text_array

ALIVE_SECONDS = 30
"""A process without a heartbeat for this time counts as ended."""
FORGOTTEN_SECONDS = 3_600

IS_ALIVE = f"heartbeat_at > now() - interval '{ALIVE_SECONDS} seconds'"


class Process(NamedTuple):
    """A process of Sluice, with the declarations of its code and settings."""

    process: UUID
    kind: ProcessKind
    node: str
    process_id: int
    format: int
    """The newest format of messages and stored rows that the process reads."""
    key_number: int
    """The number of the newest signing key that the process has read; 0 before it has read a key."""
    queues: tuple[str, ...] | None
    """The queues that the process serves; None if it shares the queues of its entity types."""
    entities: Mapping[str, int]
    """Entity type → shards."""
    topics: Mapping[str, str]
    """Topic → its entity type."""
    effects: tuple[str, ...]
    clock_offset: float | None = None
    """The clock of the process minus the clock of Postgres, in seconds; None if unknown."""


READ_CLOCK = Statement("read_clock", "SELECT extract(epoch FROM clock_timestamp())::float8")


def measure_clock_offset(session: Session, *, clock: Callable[[], float] = time.time) -> float:
    """Returns the least possible difference: this machine's clock minus the clock of Postgres, in seconds.

    The server reads its clock at an unknown time between the request and the answer. Returns 0 if both clocks
    may be equal.
    """
    session.run(READ_CLOCK)  # The first run connects and plans, which would make the measured time longer.
    asked_at = clock()
    ((there,),) = session.run(READ_CLOCK)
    return certain_offset(asked_at, float(there), clock())


def certain_offset(asked_at: float, there: float, answered_at: float) -> float:
    """Returns the least difference from a clock that showed `there` at some moment between the two times.

    Pure.
    """
    if asked_at > there:
        return asked_at - there
    return min(0.0, answered_at - there)


WRITE_PROCESS = Statement(
    "write_process",
    """
    INSERT INTO sluice.processes
        (process, kind, node, process_id, format, key_number, queues, entities, topics, effects,
         clock_offset)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
    ON CONFLICT (process) DO UPDATE SET
        node = excluded.node, process_id = excluded.process_id, format = excluded.format,
        key_number = excluded.key_number, queues = excluded.queues, entities = excluded.entities,
        topics = excluded.topics, effects = excluded.effects,
        clock_offset = excluded.clock_offset, heartbeat_at = now()
    """,
    ("uuid", "text", "text", "int", "int", "int", "text[]", "jsonb", "jsonb", "text[]", "float8"),
)


def write_process(session: Session, process: Process) -> None:
    """Writes the process's row with a new heartbeat. Idempotent."""
    session.run(
        WRITE_PROCESS,
        process.process,
        process.kind.value,
        *process[2:6],
        None if process.queues is None else text_array(process.queues),
        json.dumps(process.entities),
        json.dumps(process.topics),
        text_array(process.effects),
        process.clock_offset,
    )


DELETE_PROCESS = Statement("delete_process", "DELETE FROM sluice.processes WHERE process = $1", ("uuid",))


def delete_process(session: Session, process: UUID) -> None:
    """Deletes the row of a process that ends. Idempotent."""
    session.run(DELETE_PROCESS, process)


FORGET_PROCESSES = Statement(
    "forget_processes",
    f"""
    DELETE FROM sluice.processes WHERE heartbeat_at < now() - interval '{FORGOTTEN_SECONDS} seconds'
    """,
)


def forget_processes(session: Session) -> None:
    """Deletes the rows of processes that ended long ago. Idempotent."""
    session.run(FORGET_PROCESSES)


READ_LIVING = Statement(
    "read_living",
    f"""
    SELECT process, kind, node, process_id, format, key_number, queues, entities, topics, effects,
           clock_offset
    FROM sluice.processes WHERE {IS_ALIVE} ORDER BY kind, node, process_id
    """,
)


def read_living(session: Session) -> list[Process]:
    """Returns the running processes."""
    rows = map(Process._make, session.run(READ_LIVING))
    return [
        row._replace(
            process=UUID(str(row.process)),
            kind=ProcessKind(row.kind),
            queues=None if row.queues is None else tuple(row.queues),
            effects=tuple(row.effects),
        )
        for row in rows
    ]


# The effects of the workers that list the queue of calls ($1). If no worker lists it, the effects of all
# workers.
SERVED_EFFECTS = f"""
    SELECT DISTINCT effect FROM (
        SELECT effects, $1 = ANY (queues) AS names_it, bool_or($1 = ANY (queues)) OVER () AS one_names_it
        FROM sluice.processes WHERE kind = 'worker' AND {IS_ALIVE}
    ) w, unnest(w.effects) AS effect
    WHERE names_it OR one_names_it IS NOT TRUE
"""
READ_SERVED_EFFECTS = Statement("read_served_effects", f"{SERVED_EFFECTS} ORDER BY effect", ("text",))


def read_served_effects(session: Session, calls_queue: str) -> list[str]:
    """Returns the effects that running workers of the queue of calls declare."""
    return [effect for (effect,) in session.run(READ_SERVED_EFFECTS, calls_queue)]


READ_OLDEST_FORMAT = Statement(
    "read_oldest_format", f"SELECT min(format) FROM sluice.processes WHERE kind = 'worker' AND {IS_ALIVE}"
)


def read_oldest_format(session: Session) -> int | None:
    """Returns the newest format that all running workers read; None if no worker runs."""
    ((oldest,),) = session.run(READ_OLDEST_FORMAT)
    return None if oldest is None else int(oldest)


END_OLD_KEYS = Statement(
    "end_old_keys",
    f"""
    WITH newest AS (SELECT max(number) AS number FROM sluice.installation_keys)
    DELETE FROM sluice.installation_keys k USING newest n
    WHERE k.number < n.number
      AND NOT EXISTS (SELECT FROM sluice.processes p WHERE p.key_number < n.number AND {IS_ALIVE})
    """,
)


def end_old_keys(session: Session) -> int:
    """Deletes old keys if all running processes have read the newest key.

    Returns the number of deleted keys.
    """
    return session.count(END_OLD_KEYS)
