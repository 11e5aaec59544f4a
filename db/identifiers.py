"""Names of users' tables as SQL can take them."""

from sqlalchemy.dialects import postgresql

USERS_SCHEMA = "public"

quoted = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]
"""A name, in quotes where it needs them."""


def qualified(table: str) -> str:
    """A table of users, with its schema."""
    return f"{USERS_SCHEMA}.{quoted(table)}"
