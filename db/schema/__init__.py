"""The tables of Sluice, schema `sluice`: the declaration that the migrations add up to."""

from db.schema import delivery, failing, leaving, operating, rebuilding
from db.schema.declaring import (
    DEAD_LETTER_STATES,
    EFFECT_STATES,
    GENERATION_STATES,
    OUTCOMES,
    SCHEMA,
    metadata,
)

__all__ = [
    "DEAD_LETTER_STATES",
    "EFFECT_STATES",
    "GENERATION_STATES",
    "OUTCOMES",
    "SCHEMA",
    "delivery",
    "failing",
    "leaving",
    "metadata",
    "operating",
    "rebuilding",
]
