"""Sluice over a Unix socket: migrations, sessions and batches."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, make_url

from sluice.db.connect_failures import ConnectCause, ConnectFailed
from sluice.db.connection import Session, Statement
from sluice.db.migrations.migrate import upgrade
from sluice.stack.postgres_files import reachable_folder, server_user
from sluice.stack.postgres_server import SETTINGS
from tests.db.tasks.applying import Bench, create_tables, slice_of, thing_set
from tests.harness import stacks

IS_SOCKET = Statement("is_socket", "SELECT inet_server_addr() IS NULL")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yields the folder of the socket, in which the user of Postgres may write."""
    user = server_user()
    made = tmp_path if user is None else reachable_folder(user)
    yield made
    if made != tmp_path:
        shutil.rmtree(made)


@pytest.fixture
def socket_url(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yields the URL of an empty database over the socket of a Postgres of its own."""
    monkeypatch.setitem(SETTINGS, "unix_socket_directories", str(folder))
    with stacks.own_stack() as stack:
        stack.start("postgres")
        url = make_url(stack.database_url())
        query = {"host": str(folder), "port": str(url.port)}
        over_socket = URL.create(url.drivername, url.username, database=url.database, query=query)
        yield over_socket.render_as_string(hide_password=False)


def test_batches_are_applied_over_a_unix_socket(socket_url: str, folder: Path) -> None:
    upgrade(socket_url)
    create_tables(socket_url)
    with closing(Bench(socket_url)) as bench:
        bench.apply(slice_of([thing_set(0)]))
        assert bench.amounts() == {"k": 1}
        assert bench.session.run(IS_SOCKET) == [(True,)]
    absent = make_url(socket_url).update_query_dict({"host": f"{folder}/absent"})
    with closing(Session(absent, application_name="test")) as session, pytest.raises(ConnectFailed) as caught:
        session.run(IS_SOCKET)
    assert caught.value.cause is ConnectCause.AWAY
    assert str(caught.value).startswith(f"cannot connect to {folder}/absent")
