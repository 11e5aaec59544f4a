"""Changes this database's installation: its id, its database and its key.

Holds rows that came with a copy.
"""

import secrets
from typing import NamedTuple
from uuid import uuid4

from sluice.db.connection import Session, Statement
from sluice.db.delivery.installation import KEY_BYTES, Database

# Long, because a change reads all waiting rows, and there may be many.
PATIENCE = "SET LOCAL statement_timeout = '15min'"

LOCK_INSTALLATION = Statement("lock_installation", "SELECT name FROM sluice.installation FOR UPDATE")


def lock_installation(session: Session) -> None:
    """Locks the installation against other changes until the transaction ends."""
    session.defer(PATIENCE)
    session.run(LOCK_INSTALLATION)


REPLACE_INSTALLATION = Statement(
    "replace_installation",
    """
    UPDATE sluice.installation
    SET name = $1, id = $2, system_identifier = $3, database_oid = $4, rank = 0, made_at = now()
    """,
    ("text", "uuid", "text", "bigint"),
)
FORGET_KEYS = Statement("forget_keys", "DELETE FROM sluice.installation_keys")
# Deletes the rows that processes of the former installation wrote. TRUNCATE would wait for a running dump.
FORGET_OTHERS = tuple(
    Statement(f"forget_{table}", f"DELETE FROM sluice.{table}")
    for table in ("claims", "processes", "undeclared", "workers")
)


def replace_installation(session: Session, name: str, database: Database) -> None:
    """Draws a new id and a new key, and deletes the rows that belong to the former installation."""
    session.run(REPLACE_INSTALLATION, name, uuid4(), *database)
    session.run(FORGET_KEYS)
    insert_key(session)
    for statement in FORGET_OTHERS:
        session.run(statement)


INSERT_KEY = Statement(
    "insert_key", "INSERT INTO sluice.installation_keys (key) VALUES ($1) RETURNING number", ("bytea",)
)


def insert_key(session: Session) -> int:
    """Draws a new signing key for messages. Returns its number."""
    ((number,),) = session.run(INSERT_KEY, secrets.token_bytes(KEY_BYTES))
    return int(number)


STORE_DATABASE = Statement(
    "store_database",
    "UPDATE sluice.installation SET system_identifier = $1, database_oid = $2",
    ("text", "bigint"),
)


def store_database(session: Session, database: Database) -> None:
    """Stores this database as the database of the installation. Idempotent."""
    session.run(STORE_DATABASE, *database)


class Held(NamedTuple):
    """The numbers of rows that are held, in a copy, until an operator releases or drops them."""

    events: int
    calls: int


HOLD_EVENTS = Statement(
    "hold_events",
    """
    INSERT INTO sluice.outbox_refusals (queue, id, topic, key, error)
    SELECT queue, id, topic, key, $1 FROM sluice.outbox_events ORDER BY queue, id
    ON CONFLICT (queue, id) DO NOTHING
    """,
    ("text",),
)
# The state is `uncertain` and not `failed`, because the provider's result of a running call is unknown.
HOLD_CALLS = Statement(
    "hold_calls",
    """
    UPDATE sluice.executed_side_effects
    SET state = 'uncertain', error = $1, claimed_until = NULL, dispatched_at = NULL, settled_at = now(),
        ended_unknown = ended_unknown OR state = 'running'
    WHERE state IN ('pending', 'running')
    """,
    ("text",),
)


def hold_leaving(session: Session, error: str) -> Held:
    """Holds all waiting outgoing events and all unfinished calls, with `error` as the reason. Idempotent.

    Returns the numbers of newly held rows.
    """
    return Held(session.count(HOLD_EVENTS, error), session.count(HOLD_CALLS, error))
