"""Declares the tables of Sluice in schema `sluice`. The migrations together produce the same tables."""

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
from sluice.db.schema.declarations import OUTCOMES, SCHEMA, metadata

__all__ = [
    "OUTCOMES",
    "SCHEMA",
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
