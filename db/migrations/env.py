"""The entry point of Alembic. Runs the changes on the connection that holds the lock of `migrate`."""

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
# The change runs in the transaction of `migrate`, so it is applied completely or not at all.
with context.begin_transaction():
    context.run_migrations()
