"""PgBouncer between Sluice and Postgres: session mode works, other modes are refused."""

from contextlib import closing

import psycopg2
import pytest
from typer.testing import CliRunner

from sluice.cli.main import app
from sluice.db.connect_failures import ConnectCause, ConnectFailed
from sluice.db.connection import SESSION_SETTINGS, Session, Statement
from tests.db.tasks.applying import Bench, create_tables, slice_of, thing_set
from tests.harness.pgbouncer import pgbouncer
from tests.harness.raw_sql import connect

SHARED = "a pooler gives each transaction another backend"


def test_batches_are_applied_through_pgbouncer_with_all_time_outs(database_url: str) -> None:
    create_tables(database_url)
    with pgbouncer(database_url) as url, closing(Bench(url)) as bench:
        for offset in range(3):
            bench.apply(slice_of([thing_set(offset, f"k{offset}", offset)], prev=offset - 1))
        assert bench.amounts() == {"k0": 0, "k1": 1, "k2": 2}
        limits = [name for name in SESSION_SETTINGS if name.endswith("_timeout")]
        show = Statement("show", "SELECT current_setting(name) FROM unnest($1) name", ("text[]",))
        shown = [value for (value,) in bench.session.run(show, limits)]
        assert shown == [SESSION_SETTINGS[name] for name in limits]
        with bench.looking.transaction():
            bench.looking.command("LOCK TABLE public.things")
            with pytest.raises(psycopg2.errors.LockNotAvailable), bench.session.transaction():
                bench.session.command("LOCK TABLE public.things")


@pytest.mark.parametrize("mode", ["transaction", pytest.param("statement", marks=pytest.mark.matrix)])
def test_transaction_mode_is_refused(mode: str, database_url: str) -> None:
    with pgbouncer(database_url, mode) as url:
        with (
            closing(Session(url, application_name="test")) as session,
            pytest.raises(ConnectFailed) as caught,
        ):
            session.command("SELECT 1")
        assert caught.value.cause is ConnectCause.REFUSED
        assert SHARED in str(caught.value)
        environ = {
            "SLUICE_DATABASE_URL": url,
            "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
            "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "SLUICE_HANDLERS": "examples.shop.handlers",
        }
        for command in ("init", "status", "doctor"):
            output = CliRunner().invoke(app, [command], env=environ).output
            assert [SHARED in line for line in output.splitlines()].count(True) == 1, output
        # No setting of Sluice remains in a backend of other clients.
        show = "SHOW statement_timeout"
        with closing(connect(url)) as other, other.cursor() as cursor:
            other.autocommit = True
            cursor.execute(show)
            assert cursor.fetchone() == ("0",)


def test_a_pool_of_one_connection_is_reported(database_url: str) -> None:
    with (
        pgbouncer(database_url, pool_size=1) as url,
        closing(Session(url, application_name="test")) as session,
    ):
        with pytest.raises(ConnectFailed, match="opened no second connection within 5 s") as caught:
            session.command("SELECT 1")
        assert caught.value.cause is ConnectCause.AWAY
