"""Declaring users' tables: the same names as in `sluice`."""

from sluice.db.tables import TableRefused, entity_table, projection_table

__all__ = ["TableRefused", "entity_table", "projection_table"]
