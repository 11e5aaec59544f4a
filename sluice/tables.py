"""Declares users' tables: the names that `sluice` also exports, and the filter for Alembic's `env.py`."""

from sluice.db.autogenerate import include_object
from sluice.db.tables import TableRefused, entity_table, projection_table

__all__ = ["TableRefused", "entity_table", "include_object", "projection_table"]
