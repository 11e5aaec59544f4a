"""The Postgres servers of a test run, and the fixture `sluice_stack`, which uses them."""

import os
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from sluice.runtime.service_urls import DATABASE_URL
from sluice.stack import Stack
from sluice.testing.servers.databases import database_url as url_of
from sluice.testing.servers.postgres_world import PostgresWorld
from sluice.testing.servers.servers import FOLDER, Servers, own_servers
from tests.harness.raw_sql import connect
from tests.unit.testing.planted import orders
from tests.unit.testing.test_testing_page import BLOCKS


@pytest.fixture
def _handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_HANDLERS", "tests.unit.testing.planted")


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("number", range(2))
def test_each_test_gets_its_own_database(request: pytest.FixtureRequest, number: int) -> None:
    world: PostgresWorld = request.getfixturevalue("sluice_stack")
    assert world.send("orders", key="o-1", type="order.set", version=1) == "applied"
    assert list(world.rows(orders)) == ["o-1"]


def test_the_example_of_the_testing_page_passes(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_HANDLERS", "examples.shop.handlers")
    [block] = [block for block in BLOCKS if "sluice_stack" in block]
    names: dict[str, Any] = {}
    exec(block, names)
    names["test_an_amount_of_zero_is_refused"](request.getfixturevalue("sluice_stack"))


def test_a_given_server_is_used_and_its_test_databases_are_dropped(postgres: Stack, tmp_path: Path) -> None:
    server_url = postgres.database_url("postgres")
    unused = Stack(tmp_path / "unused")
    servers = Servers(unused, {DATABASE_URL: server_url}, template="template_of_this_test")
    with servers.database() as url:
        assert make_url(url).port == make_url(server_url).port
        name = make_url(url).database
        assert name is not None
    servers.drop_template()
    for gone in (name, "template_of_this_test"):
        with pytest.raises(psycopg2.OperationalError, match="does not exist"):
            connect(url_of(server_url, gone))
    assert not unused.root.exists()


@pytest.mark.matrix
def test_servers_that_a_test_run_started_are_removed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATABASE_URL, raising=False)
    with own_servers(tmp_path) as servers, servers.database() as url:
        connect(url).close()
        assert (tmp_path / FOLDER / str(os.getpid())).exists()
    assert not (tmp_path / FOLDER / str(os.getpid())).exists()
