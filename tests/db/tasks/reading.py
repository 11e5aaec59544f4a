"""Sessions of other applications that read a projection while another generation is filled and made live."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection
from sqlalchemy.engine import make_url

from tests.db.tasks.projecting import Bench, registry
from tests.waiting import wait_until

RR = "BEGIN ISOLATION LEVEL REPEATABLE READ"


class Reader:
    """A session of another application, on this database or on another database."""

    def __init__(self, database_url: str, statement: str = "", database: str | None = None) -> None:
        url = make_url(database_url)
        self.connection: Connection = psycopg2.connect(
            host=url.host, port=url.port, user=url.username, dbname=database or url.database,
            application_name="report",
        )  # fmt: skip
        self.connection.autocommit = True
        self.pid = self.connection.info.backend_pid
        if statement:
            self.run(statement)

    def run(self, query: str) -> list[tuple[Any, ...]]:
        """Runs a query and returns its rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall() if cursor.description else []

    def keys(self) -> set[str]:
        """Returns the keys of the rows that the session sees through the view."""
        return {key for (key,) in self.run("SELECT thing_id FROM public.totals")}


@pytest.fixture
def open_reader(bench: Bench) -> Iterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def opening(*arguments: str) -> Reader:
        readers.append(Reader(bench.database_url, *arguments))
        return readers[-1]

    yield opening
    for reader in readers:
        reader.connection.close()


def fill(bench: Bench, opened: Any) -> tuple[Bench, int]:
    """Builds another generation for a swap. Returns the test bench with its code, and its number."""
    fixed = opened(bench.with_code(registry(2, 10)))
    number = fixed.begin()
    assert fixed.rebuild(number)
    return fixed, number


def wait_for_newer_snapshots(bench: Bench) -> None:
    """Waits until a new snapshot is newer than all rows of the rebuild.

    A snapshot counts as old as the oldest writing transaction in any database of the server. Other tests
    may have such transactions in their databases.
    """
    newer = """
        SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint > max(filled_xid)
        FROM sluice.generation_lanes
    """
    wait_until(lambda: bench.look(newer) == [(True,)], timeout_seconds=30, what="new snapshots are newer")
