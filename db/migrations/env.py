"""The entry point of Alembic. Runs the changes on the connection that `migrate` locked, or prints them."""

from typing import cast

from alembic import context
from sqlalchemy import Connection, event

from sluice.db.schema import VERSION_TABLE, metadata
from sluice.db.schema_text import in_schema

schema = context.config.attributes["schema"]
if context.is_offline_mode():
    # Prints the SQL. With another parameter style, a percent sign would be doubled.
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        version_table_schema=schema,
        transaction_per_migration=True,
    )
else:
    own = cast(Connection, context.config.attributes["connection"])

    @event.listens_for(own, "before_cursor_execute", retval=True)
    def translate(_c: object, _cursor: object, sql: str, values: object, *_: object) -> tuple[str, object]:
        """Sends the statements of the migrations in the schema of the installation."""
        return in_schema(sql, schema), values

    context.configure(
        connection=own,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        version_table_schema=schema,
    )
# The change runs in the transaction of `migrate`, so it is applied completely or not at all.
with context.begin_transaction():
    context.run_migrations()
