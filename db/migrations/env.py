"""Alembic's entry: runs the changes on the connection on which `migrate` holds its lock."""

from typing import cast

from alembic import context
from sqlalchemy import Connection

from sluice.db.migrations.migrate import VERSION_TABLE
from sluice.db.schema import SCHEMA, metadata

context.configure(
    connection=cast(Connection, context.config.attributes["connection"]),
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    version_table_schema=SCHEMA,
)
# Already in the transaction of `migrate`: all of a change happens, or nothing.
with context.begin_transaction():
    context.run_migrations()
