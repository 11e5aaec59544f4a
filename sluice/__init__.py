"""Applies Kafka events to Postgres, effectively once. Celery workers do the work.

Handlers and their tests import everything that they need from here. README.md shows a first handler.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_TABLES = frozenset({"TableRefused", "entity_table", "projection_table"})


def __getattr__(name: str) -> object:
    """Loads the names above when they are first used, because the import of SQLAlchemy takes a
    third of a second.

    Programs that do not use these names start faster. An example is a run of pytest in a project
    that has the plugin.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module("sluice.db.tables" if name in _TABLES else "sluice.tasks.api")
    value: object = getattr(module, name)
    globals()[name] = value
    return value
