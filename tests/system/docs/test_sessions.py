"""The shell blocks of the documents that have the mark `servers`. They run in one shell, on real servers."""

import os
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from sluice.runtime.service_urls import StackUrls
from sluice.stack import Stack
from tests.documents import ROOT, blocks_in
from tests.system.docs.shell import shell, user_environ
from tests.waiting import wait_until

APPLIED = (
    "SELECT (SELECT count(*) FROM transactions), (SELECT count(*) FROM orders),"
    " (SELECT count(*) FROM users WHERE name = 'Ann')"
)


@pytest.mark.own("postgres")
def test_the_shell_blocks_of_the_documents_run_and_their_events_are_applied(
    kafka: Stack, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    # The folder is outside the clone. So the block that stops servers cannot stop the servers of a developer.
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    urls = StackUrls(database_url, redis_url, kafka.kafka_bootstrap_servers())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # `sluice stack up` starts no server whose address is in the environment.
    environ = user_environ() | urls.environ() | {"PATH": path}
    start, look, end = blocks_in("sh", page=ROOT / "docs/installing.md", mark="servers")
    with shell(environ, tmp_path, tmp_path / "shell.log") as bash:
        bash.type(start.text)
        for block in blocks_in("sh", page=ROOT / "docs/developing.md", mark="servers"):
            bash.type(block.text)
        wait_until(
            lambda: applied(database_url) == (1000, 1, 1), timeout_seconds=60, what="the events are applied"
        )
        assert "payments" in bash.type(look.text)
        bash.type(end.text)


def applied(database_url: str) -> tuple[int, ...]:
    """Returns the number of payments, of orders, and of users with the name Ann."""
    with create_engine(database_url, poolclass=NullPool).connect() as connection:
        return tuple(connection.execute(text(APPLIED)).one())
