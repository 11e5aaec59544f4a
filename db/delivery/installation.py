"""`installation` and `installation_keys`: the installation to which this database belongs."""

import secrets
from typing import NamedTuple
from uuid import UUID, uuid4

import psycopg2
from psycopg2.errors import InsufficientPrivilege

from sluice.db.connection import Session, Statement
from sluice.runtime.installation import Installation
from sluice.runtime.partition_share import WHOLE, PartitionShare, parse_share

KEY_BYTES = 32


class Database(NamedTuple):
    """Identifies a database, to distinguish it from a copy.

    `system_identifier` is None if the role may not read it.
    """

    system_identifier: str | None
    oid: int

    def is_copy_of(self, other: "Database") -> bool:
        """Returns True if the databases differ: a restore or `pg_upgrade` made one from the other."""
        both = (self.system_identifier, other.system_identifier)
        return self.oid != other.oid or (None not in both and both[0] != both[1])


class StoredInstallation(NamedTuple):
    """The row of `installation`, with the database for which the row was written."""

    installation: Installation
    rank: int
    database: Database
    share: PartitionShare = WHOLE


class Key(NamedTuple):
    """A signing key. The key with the highest number is the newest."""

    number: int
    key: bytes


READ_INSTALLATION = Statement(
    "read_installation",
    "SELECT name, id, rank, system_identifier, database_oid, partition_share FROM sluice.installation",
)


def read_installation(session: Session) -> StoredInstallation | None:
    """Returns the installation of this database; None before the first `sluice init`."""
    try:
        rows = session.run(READ_INSTALLATION)
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.InvalidSchemaName):
        return None
    if not rows:
        return None
    name, installation_id, rank, system_identifier, oid, share = rows[0]
    return StoredInstallation(
        Installation(name, UUID(str(installation_id))),
        rank,
        Database(system_identifier, oid),
        parse_share(share),
    )


READ_DATABASE_OID = Statement(
    "read_database_oid", "SELECT oid::bigint FROM pg_database WHERE datname = current_database()"
)
READ_SYSTEM_IDENTIFIER = Statement(
    "read_system_identifier", "SELECT system_identifier::text FROM pg_control_system()"
)


def read_database(session: Session) -> Database:
    """Returns the identity of the connected database. Call it outside of a transaction."""
    ((oid,),) = session.run(READ_DATABASE_OID)
    try:
        ((system_identifier,),) = session.run(READ_SYSTEM_IDENTIFIER)
    except (InsufficientPrivilege, psycopg2.errors.UndefinedFunction):
        system_identifier = None
    return Database(system_identifier, oid)


READ_KEYS = Statement("read_keys", "SELECT number, key FROM sluice.installation_keys ORDER BY number DESC")


def read_keys(session: Session) -> tuple[Key, ...]:
    """Returns the signing keys, newest first. Raises InsufficientPrivilege if the role may not sign."""
    return tuple(Key(number, bytes(key)) for number, key in session.run(READ_KEYS))


CREATE_INSTALLATION = Statement(
    "create_installation",
    """
    WITH made AS (
        INSERT INTO sluice.installation (name, id, system_identifier, database_oid, partition_share)
        VALUES ($1, $2, $3, $4, $7) ON CONFLICT DO NOTHING RETURNING id
    ), claiming AS (
        INSERT INTO sluice.claim_key (key) SELECT $6 FROM made
        ON CONFLICT (is_only) DO UPDATE SET key = excluded.key
    )
    INSERT INTO sluice.installation_keys (key) SELECT $5 FROM made
    """,
    ("text", "uuid", "text", "bigint", "bytea", "bytea", "text"),
)


def create_installation(session: Session, name: str, share: PartitionShare = WHOLE) -> bool:
    """Draws the id and the first keys of this database's installation, and stores its share. Idempotent.

    Returns True if the database had no installation before.
    """
    database = read_database(session)
    keys = (secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES))
    return session.count(CREATE_INSTALLATION, name, uuid4(), *database, *keys, str(share)) == 1
