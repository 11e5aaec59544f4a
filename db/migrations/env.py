"""The entry point of Alembic. Runs the changes on the connection that `migrate` locked, or prints them."""

from typing import cast

from alembic import context
from sqlalchemy import Connection

from sluice.db.migrations.migrate import VERSION_TABLE
from sluice.db.schema import SCHEMA, metadata

if context.is_offline_mode():
    # Prints the SQL. With another parameter style, a percent sign would be doubled.
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        version_table_schema=SCHEMA,
        transaction_per_migration=True,
    )
else:
    context.configure(
        connection=cast(Connection, context.config.attributes["connection"]),
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        version_table_schema=SCHEMA,
    )
# The change runs in the transaction of `migrate`, so it is applied completely or not at all.
with context.begin_transaction():
    context.run_migrations()
