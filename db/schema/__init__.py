"""The tables of Sluice, schema `sluice`: the declaration that the migrations add up to."""

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
