"""A fixture for a connection that reads the tables."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection
from sqlalchemy.pool import NullPool

from tests.harness.raw_sql import make_engine


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """Yields a connection. Its transaction is rolled back at the end."""
    # A role with the name of the schema has that schema as its default, and Alembic returns the name None for
    # the default schema.
    search_path = {"options": "-c search_path=public"}
    engine = make_engine(database_url, poolclass=NullPool, connect_args=search_path)
    with engine.connect() as opened:
        yield opened
