"""Quotes names of users' tables for SQL."""

from sqlalchemy.dialects import postgresql

USERS_SCHEMA = "public"

quoted = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]
"""Returns a name with quotes if they are necessary."""


def qualified(table: str) -> str:
    """Returns the quoted name of a users' table with its schema."""
    return f"{USERS_SCHEMA}.{quoted(table)}"
