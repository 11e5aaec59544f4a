"""Excludes Sluice's objects when Alembic generates migrations in a user's project."""

import re
from typing import Any

from sqlalchemy import Table

from sluice.db.schema import SCHEMA, VERSION_TABLE, metadata
from sluice.db.tables import INSERTED_HASH, VERSION, is_projection
from sluice.runtime.settings import read_schema

# Matches the names of the tables of generations and checkpoints.
_COPY = re.compile(r".+_(g[0-9]+|at_.+)", re.DOTALL)


def include_object(
    object: Any,
    name: str | None,  # noqa: ARG001
    type_: str,
    reflected: bool,
    compare_to: Any,
) -> bool:
    """Returns False for objects that `sluice init` and `sluice rebuild` manage. For `env.py` of Alembic.

    These are Sluice's own tables, projections (which are views), and the tables of their generations and
    checkpoints. Alembic then also omits the columns, indexes and constraints of these tables. Reads
    SLUICE_SCHEMA. Raises SettingsError.
    """
    if type_ != "table":
        return True
    is_undeclared = reflected and compare_to is None
    return not (is_projection(object) or (is_undeclared and _is_made_by_sluice(object)))


def _is_made_by_sluice(table: Table) -> bool:
    if table.schema == read_schema():
        return True
    columns = set(table.columns.keys())
    # If Sluice's schema is the default schema, as for a role of its name, reflection returns no schema. The
    # database may also have another installation in another schema.
    own = metadata.tables.get(f"{SCHEMA}.{table.name}")
    if own is not None and columns == set(own.columns.keys()):
        return True
    if table.schema is not None and table.name == VERSION_TABLE and columns == {"version_num"}:
        return True
    return _COPY.fullmatch(table.name) is not None and columns >= {VERSION, INSERTED_HASH}
