"""Declares the tables of Sluice in schema `sluice`. The migrations together produce the same tables.

An installation in another schema has the same tables there; `db/schema_text.py` translates.
"""

from sluice.db.schema import (
    admin,
    dead_letters,
    erasures,
    installation,
    outbox,
    progress,
    projection_letters,
    projections,
)
from sluice.db.schema.declarations import OUTCOMES, SCHEMA, VERSION_TABLE, metadata

__all__ = [
    "OUTCOMES",
    "SCHEMA",
    "VERSION_TABLE",
    "admin",
    "dead_letters",
    "erasures",
    "installation",
    "metadata",
    "outbox",
    "progress",
    "projection_letters",
    "projections",
]
