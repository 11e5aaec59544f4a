"""What an error means: try again, the event's own fault, or a broken deployment."""

from enum import Enum

import psycopg2


class ErrorKind(Enum):
    """The three kinds of errors; each asks for another answer."""

    TRANSIENT = "transient"  # the whole transaction again, in place
    REJECTED = "rejected"  # this event alone becomes a dead letter
    BROKEN = "broken"  # the deployment is wrong, not the events: the queue halts


class DeploymentBroken(Exception):
    """Code and database do not fit together; the message says what to change. Halts the queue."""


class RowsChanged(Exception):
    """A statement touched another number of rows than the fold foresaw: somebody else wrote. Start over."""


# Classes and codes of the PostgreSQL manual, appendix A.
_TRANSIENT_CLASSES = frozenset({"08", "53", "57", "58"})
_TRANSIENT_CODES = frozenset({"25P03", "25006", "40001", "40P01", "55P03", "0A000", "26000"})
_REJECTED_CLASSES = frozenset({"22", "23", "54"})
_REJECTED_CODES = frozenset({"P0001"})

QUERY_CANCELED = "57014"
# A plan prepared before a migration (0A000) or on another connection behind a pooler (26000).
STALE_PLAN = frozenset({"0A000", "26000"})


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a database error, if it has one."""
    return getattr(error, "pgcode", None)


def needs_new_connection(error: BaseException) -> bool:
    """Whether the connection may be lost, or its plans or its server no longer be the right ones."""
    code = sqlstate(error)
    if code is None:
        return isinstance(error, psycopg2.Error)
    return code in STALE_PLAN or code in {"25P03", "25006"} or code[:2] == "08" or code[:3] == "57P"


def classify(error: BaseException) -> ErrorKind:
    """The kind of an error met in the apply transaction; anything unlisted is BROKEN."""
    code = sqlstate(error)
    if code is not None:
        if code in _TRANSIENT_CODES or code[:2] in _TRANSIENT_CLASSES:
            return ErrorKind.TRANSIENT
        if code in _REJECTED_CODES or code[:2] in _REJECTED_CLASSES:
            return ErrorKind.REJECTED
        return ErrorKind.BROKEN
    # Without a code nothing came from the server: the connection is gone, or never was.
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return ErrorKind.TRANSIENT
    # psycopg2 refuses to send a NUL or a lone surrogate before the server sees it.
    if isinstance(error, UnicodeEncodeError) or (isinstance(error, ValueError) and "NUL" in str(error)):
        return ErrorKind.REJECTED
    return ErrorKind.BROKEN
