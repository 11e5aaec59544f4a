"""The SQL blocks of the documents run on a migrated database."""

from pathlib import Path

import pytest
from sqlalchemy.pool import NullPool

from tests.documents import ROOT, blocks_in
from tests.harness.raw_sql import make_engine

PAGES = sorted({block.page for block in blocks_in("sql")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sql_blocks_run(page: Path, database_url: str) -> None:
    with make_engine(database_url, poolclass=NullPool).connect() as connection:
        # The blocks of a page run in one transaction, which is rolled back, because other tests use the same
        # roles.
        for block in blocks_in("sql", page=page):
            connection.exec_driver_sql(block.text)
