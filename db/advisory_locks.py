"""The advisory locks of an installation. Pure.

Postgres separates advisory locks by database, and the schema separates the installations of one database. So
the number of each lock is the hash of a text that begins with the schema. The id of the installation would
not do: `sluice init --new-installation` changes it while a web application may hold the lock of a queue.
"""

from enum import StrEnum

WRITTEN = "sluice"
"""The schema in the SQL of this code. Its numbers are those of the versions that had no other schema."""


class LockPurpose(StrEnum):
    """What a lock protects."""

    BEAT = "beat"
    BRIDGE = "bridge"
    CALL = "call"
    EMIT = "emit"
    LANE = "lane"
    LEASE = "lease"
    REBUILD = "rebuild"
    RELAY = "relay"
    WORKER = "worker"


def lock_name(schema: str, purpose: LockPurpose) -> str:
    """Returns the text whose hash is the lock's number, or the first words of this text.

    Texts of two schemas or purposes differ, whatever follows, because neither contains a blank.
    """
    return f"{schema} {purpose}"


def lock_text(purpose: LockPurpose, ending: str = "") -> str:
    """Returns the SQL literal of the name for the schema `sluice`; `in_schema` translates it."""
    return f"'{lock_name(WRITTEN, purpose)}{ending}'"
