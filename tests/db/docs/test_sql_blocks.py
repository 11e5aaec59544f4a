"""The SQL blocks of the documents run on a migrated database."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from tests.documents import ROOT, blocks_in

PAGES = sorted({block.page for block in blocks_in("sql")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sql_blocks_run(page: Path, database_url: str) -> None:
    with create_engine(database_url, poolclass=NullPool).connect() as connection:
        # Each page runs in one transaction that is rolled back: other tests share the roles of the server.
        for block in blocks_in("sql", page=page):
            connection.exec_driver_sql(block.text)
