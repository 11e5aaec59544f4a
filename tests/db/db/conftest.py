"""A connection for reading the tables."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """A connection whose transaction is rolled back at the end."""
    # For a user named like the schema, that schema would be the default, which Alembic calls None.
    search_path = {"options": "-c search_path=public"}
    engine = create_engine(database_url, poolclass=NullPool, connect_args=search_path)
    with engine.connect() as opened:
        yield opened
