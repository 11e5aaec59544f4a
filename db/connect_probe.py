"""Reads the SQLSTATE of a refused connect, which does not depend on the server's language.

With the verbosity PQERRORS_SQLSTATE, libpq returns the SQLSTATE instead of the server's text. psycopg2 has no
option for this verbosity. But while an asynchronous connection opens, psycopg2 gives access to libpq's
connection, where the verbosity can be set.
"""

import ctypes
import time
from collections.abc import Mapping
from select import select
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2 import _psycopg
from psycopg2.extensions import POLL_OK, POLL_READ

PQERRORS_SQLSTATE = 3
PROBE_SECONDS = 5.0


def read_sqlstate_text(target: Mapping[str, Any], *, seconds: float = PROBE_SECONDS) -> str:
    """Connects again, and returns libpq's text with the SQLSTATE in place of the server's text.

    Returns "" if there is no SQLSTATE, because the connect succeeds, takes longer than `seconds`, or libpq is
    too old.
    """
    try:
        set_verbosity = ctypes.CDLL(_psycopg.__file__).PQsetErrorVerbosity
        set_verbosity.argtypes = [ctypes.c_void_p, ctypes.c_int]
    except (OSError, AttributeError):
        return ""
    until = time.monotonic() + seconds
    try:
        connection = psycopg2.connect(**target, async_=True)
    except (psycopg2.Error, UnicodeDecodeError):
        return ""
    try:
        set_verbosity(connection.pgconn_ptr, PQERRORS_SQLSTATE)
        wait_for_answer(connection, until)
    except psycopg2.Error as error:
        return str(error)
    except (UnicodeDecodeError, OSError):
        return ""
    finally:
        connection.close()
    return ""


def wait_for_answer(connection: psycopg2.extensions.connection, until: float) -> bool:
    """Waits until an asynchronous connection is open, or has the answer to its statement.

    Returns False if this takes longer than `until`, a time of the monotonic clock. Raises psycopg2.Error.
    """
    while (state := connection.poll()) != POLL_OK:
        left = until - time.monotonic()
        if left <= 0:
            return False
        waiting = [connection]
        select(waiting if state == POLL_READ else [], [] if state == POLL_READ else waiting, [], left)
    return True
