"""Reads what else a database contains: tables of other installations, and of other programs."""

from sqlalchemy import Connection, text

from sluice.db.identifiers import quoted
from sluice.db.schema import VERSION_TABLE

# Schemas with the tables of an installation, which this role may read.
_SCHEMAS = text(
    """
    SELECT n.nspname FROM pg_namespace n
    WHERE n.nspname <> :schema AND has_schema_privilege(n.oid, 'USAGE')
      AND 3 = (
        SELECT count(*) FROM pg_class c
        WHERE c.relnamespace = n.oid AND c.relkind = 'r' AND has_table_privilege(c.oid, 'SELECT')
          AND c.relname IN ('installation', 'projections', 'entity_tables')
      )
    ORDER BY n.nspname
    """
)


def read_taken(connection: Connection, schema: str) -> dict[str, str]:
    """Returns table → the schema of the other installation that it belongs to.

    These are the projections of other installations, and the tables that their workers have written. Omits
    installations whose tables this role may not read.
    """
    taken: dict[str, str] = {}
    for other in list(connection.scalars(_SCHEMAS, {"schema": schema})):
        here = quoted(other)
        names = connection.scalars(
            text(
                f"SELECT projection FROM {here}.projections UNION SELECT table_name FROM {here}.entity_tables"
            )
        )
        taken |= dict.fromkeys(names, other)
    return taken


_RELATIONS = text(
    """
    SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relname <> :version_table
    ORDER BY c.relname LIMIT 1
    """
)


def find_relation(connection: Connection, schema: str) -> str | None:
    """Returns a table, view or sequence in the schema, except Alembic's own; None if there is none."""
    found: str | None = connection.scalar(_RELATIONS, {"schema": schema, "version_table": VERSION_TABLE})
    return found
