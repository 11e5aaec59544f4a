"""Refuses a pooler that gives a connection another backend for each transaction.

Sluice needs what belongs to a backend: settings, prepared statements and advisory locks. PgBouncer keeps them
with pool_mode = session. With pool_mode = transaction they would be those of other clients.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg2
import psycopg2.extensions

from sluice.db.connect_failures import ConnectCause, ConnectFailed, Verdict, describe_failure
from sluice.db.connect_probe import wait_for_answer

READ_PID = "SELECT pg_backend_pid()"
ROUNDS = 3  # so that other clients of the pooler cannot hide the exchange of backends
SECOND_SECONDS = 5.0

SHARED = "a pooler gives each transaction another backend"
SHARED_ADVICE = (
    "let SLUICE_DATABASE_URL lead past the pooler, or set PgBouncer to pool_mode = session for this database"
)
ALONE = f"the pooler opened no second connection within {SECOND_SECONDS:.0f} s"
ALONE_ADVICE = "raise the pool size to the connections of all processes of Sluice together"

_checked: set[tuple[str, int, str, str]] = set()


def shares_backends(first: Sequence[int], second: Sequence[int]) -> bool:
    """Returns True if two open connections reported pids that only shared backends explain. Pure."""
    return len({*first}) > 1 or len({*second}) > 1 or not {*first}.isdisjoint(second)


def require_own_backend(connection: psycopg2.extensions.connection, target: Mapping[str, Any]) -> None:
    """Raises ConnectFailed if a pooler gives the connection another backend for each transaction.

    Call it before any setting is made, which would remain in a backend of other clients. Checks a server one
    time per process. `target`: the options of the connection.
    """
    info = connection.info
    server = (info.host, info.port, info.dbname, info.user)
    if server in _checked:
        return
    first = [_read_pid(connection)]
    # Postgres itself names this pid when a connection opens. Poolers name a number of their own.
    if first[0] != info.backend_pid:
        _compare(connection, first, target)
    _checked.add(server)


def _compare(connection: psycopg2.extensions.connection, first: list[int], target: Mapping[str, Any]) -> None:
    # If the pool has one backend, the second connection waits for it. Therefore it is asynchronous.
    until = time.monotonic() + SECOND_SECONDS
    other = psycopg2.connect(**target, async_=True)
    second: list[int] = []
    try:
        for _ in range(ROUNDS):
            if not wait_for_answer(other, until):
                raise _failure(ALONE, Verdict(ConnectCause.AWAY, ALONE_ADVICE), target)
            with other.cursor() as cursor:
                cursor.execute(READ_PID)
                if not wait_for_answer(other, until):
                    raise _failure(ALONE, Verdict(ConnectCause.AWAY, ALONE_ADVICE), target)
                second += [pid for (pid,) in cursor.fetchall()]
            first.append(_read_pid(connection))
    finally:
        other.close()
    if shares_backends(first, second):
        raise _failure(SHARED, Verdict(ConnectCause.REFUSED, SHARED_ADVICE), target)


def _read_pid(connection: psycopg2.extensions.connection) -> int:
    with connection.cursor() as cursor:
        cursor.execute(READ_PID)
        ((pid,),) = cursor.fetchall()
        return int(pid)


def _failure(text: str, verdict: Verdict, target: Mapping[str, Any]) -> ConnectFailed:
    return ConnectFailed(describe_failure(text, verdict, target), verdict.cause)
