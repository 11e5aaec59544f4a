"""Classifies errors of the apply transaction by SQLSTATE and exception type; see docs/faults.md."""

from enum import Enum

import psycopg2

from sluice.db.connect_failures import ConnectFailed
from sluice.runtime.terminal_text import counted


class Fault(Enum):
    """The party at fault for an error. Each party requires a different reaction."""

    EVENT = "event"  # only this event becomes a dead letter
    DEPLOYMENT = "deployment"  # the queue halts, and continues when the cause is repaired
    SURROUNDINGS = "surroundings"  # the transaction is retried with backoff until it succeeds


class DeploymentBroken(Exception):
    """Raised if code and database do not match. Halts the queue.

    The message contains the necessary change.
    """


class RowsChanged(Exception):
    """Raised if a statement changed an unexpected number of rows because of a concurrent writer."""


class WriteSuppressed(Exception):
    """Raised if Postgres wrote fewer rows than required, and no concurrent writer is the cause."""

    def __init__(self, table: str, written: int, wanted: int) -> None:
        super().__init__(
            f"{table}: Postgres wrote {written} of {counted(wanted, 'row')}, and no other transaction"
            " changed them; likely causes are a trigger that returns NULL, a rule, row-level security or a"
            " cascade"
        )
        self.table = table


# The classes in appendix A of the manual of PostgreSQL 16, and class 10, which is new in PostgreSQL 17. Only
# triggers and functions of users raise errors of other classes.
POSTGRES_CLASSES = frozenset({
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21",
    "22", "23", "24", "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D",
    "3F", "40", "42", "44", "53", "54", "55", "57", "58", "72", "F0", "HV", "P0", "XX",
})  # fmt: skip
FAULT_OF_CLASS = {
    **dict.fromkeys(("22", "23", "38", "39", "44", "54", "P0"), Fault.EVENT),
    "42": Fault.DEPLOYMENT,
    **dict.fromkeys(("08", "28", "40", "53", "57", "58"), Fault.SURROUNDINGS),
}
FAULT_OF_CODE = {
    **dict.fromkeys(("3F000", "55000"), Fault.DEPLOYMENT),
    **dict.fromkeys(("25006", "25P03", "25P04", "3D000", "55P03"), Fault.SURROUNDINGS),
    # These errors are retried one time with a new connection. If they occur again, retry_policy treats the
    # deployment as faulty.
    **dict.fromkeys(("0A000", "26000"), Fault.SURROUNDINGS),
}

QUERY_CANCELED = "57014"
LOCK_NOT_AVAILABLE = "55P03"
NO_RIGHT = "42501"
GRANT_ADVICE = "give the role the rights of its purpose (`sluice grants --help`)"
# A statement was prepared before a migration (0A000), or on another connection behind a pooler (26000).
STALE_PLAN = frozenset({"0A000", "26000"})
# The server ends the session with these codes (25P03, 25P04), or is no longer a primary (25006).
_SESSION_ENDED = frozenset({"25006", "25P03", "25P04"})


def sqlstate(error: BaseException) -> str | None:
    """Returns the SQLSTATE of a database error; None for an error without a SQLSTATE."""
    return getattr(error, "pgcode", None)


def needs_new_connection(error: BaseException) -> bool:
    """Returns True if the connection may be lost, if its plans may be outdated, or if its server may no
    longer be the primary.
    """
    code = sqlstate(error)
    if code is None:
        return isinstance(error, psycopg2.Error) and whose_fault(error) is not Fault.EVENT
    return code in STALE_PLAN or code in _SESSION_ENDED or code[:2] == "08" or code[:3] == "57P"


def whose_fault(error: BaseException) -> Fault:
    """Returns the party at fault for an error of a running process.

    For a class that Postgres does not define, this is the event. For any other error that no table here
    names, this is the deployment.
    """
    code = sqlstate(error)
    if code is None:
        return _fault_without_code(error)
    known = FAULT_OF_CODE.get(code) or FAULT_OF_CLASS.get(code[:2])
    if known is None and code[:2] not in POSTGRES_CLASSES:
        return Fault.EVENT
    return known or Fault.DEPLOYMENT


def allows_waiting_at_start(error: BaseException) -> bool:
    """Returns True if a starting process should wait for Postgres.

    Returns False if waiting is useless, for example for a wrong password or database name.
    """
    if isinstance(error, ConnectFailed) and error.is_refused:
        return False
    code = sqlstate(error) or ""
    return whose_fault(error) is Fault.SURROUNDINGS and code[:2] not in ("28", "3D")


def describe_refusal(error: psycopg2.Error) -> str:
    """Returns the reason why Postgres refuses a starting process, and the remedy."""
    text = " ".join(str(error).split())
    if isinstance(error, ConnectFailed):
        return f"Postgres: {text}"
    advice = GRANT_ADVICE if sqlstate(error) == NO_RIGHT else "run `sluice init`, or correct the cause"
    return f"Postgres refuses: {text}; {advice}"


def _fault_without_code(error: BaseException) -> Fault:
    """Returns the party at fault for an error without SQLSTATE.

    Either psycopg2 refused a value, or the connection is lost, or the error is a bug.
    """
    if isinstance(error, RowsChanged):
        return Fault.SURROUNDINGS
    if isinstance(error, WriteSuppressed):
        return Fault.EVENT
    # Before they send a value, psycopg2 and the JSON encoder refuse NUL, lone surrogates, and some types and
    # numbers.
    if isinstance(error, UnicodeError | OverflowError | psycopg2.DataError):
        return Fault.EVENT
    if isinstance(error, ValueError) and "NUL" in str(error):
        return Fault.EVENT
    if isinstance(error, psycopg2.ProgrammingError) and "can't adapt" in str(error):
        return Fault.EVENT
    lost = (psycopg2.OperationalError, psycopg2.InterfaceError)
    # libpq reports some lost connections without a specific class: "no message from the libpq".
    return Fault.SURROUNDINGS if isinstance(error, lost) or type(error) in _UNSPECIFIC else Fault.DEPLOYMENT


_UNSPECIFIC = (psycopg2.Error, psycopg2.DatabaseError)
