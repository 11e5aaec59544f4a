"""Kafka events to Postgres state, effectively once, with Celery workers doing the work.

Everything that handlers and their tests need is imported from here; see README.md for a first handler.
"""

from sluice.db.tables import TableRefused, entity_table, projection_table
from sluice.tasks.api import (
    EVENT,
    Call,
    Delete,
    Effect,
    EffectCall,
    Emit,
    Entity,
    Event,
    FieldNames,
    Increment,
    Insert,
    JsonObject,
    Merge,
    NotSent,
    ProjectionEffect,
    Read,
    Refused,
    Rejected,
    Row,
    Topic,
    Upsert,
    Version,
    effect,
    handles,
    projects,
)

__version__ = "0.1.0"

__all__ = [
    "EVENT",
    "Call",
    "Delete",
    "Effect",
    "EffectCall",
    "Emit",
    "Entity",
    "Event",
    "FieldNames",
    "Increment",
    "Insert",
    "JsonObject",
    "Merge",
    "NotSent",
    "ProjectionEffect",
    "Read",
    "Refused",
    "Rejected",
    "Row",
    "TableRefused",
    "Topic",
    "Upsert",
    "Version",
    "effect",
    "entity_table",
    "handles",
    "projection_table",
    "projects",
]
