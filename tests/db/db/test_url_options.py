"""The options of the database's URL have their effect on a real server."""

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, make_url

from sluice.db.connect_failures import ConnectCause, ConnectFailed
from sluice.db.connection import Session, Statement
from sluice.db.migrations.migrate import current_revision, newest_revision
from tests.harness.pgbouncer import pgbouncer

OPTIONS = "-c geqo=off -c statement_timeout=7s"
SHOW = Statement(
    "show",
    "SELECT current_setting('geqo'), current_setting('statement_timeout'),"
    " current_setting('application_name')",
)


def test_options_of_the_server_are_set_and_those_of_sluice_prevail(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGAPPNAME", "other")
    url = make_url(database_url).update_query_dict({"options": OPTIONS})
    with closing(Session(url, application_name="test")) as session:
        assert session.run(SHOW) == [("off", "5s", "test")]


def test_options_of_the_server_behind_pgbouncer_are_refused_in_one_sentence(database_url: str) -> None:
    with pgbouncer(database_url) as pooled:
        url = make_url(pooled).update_query_dict({"options": OPTIONS})
        with (
            closing(Session(url, application_name="test")) as session,
            pytest.raises(ConnectFailed) as caught,
        ):
            _ = session.connection
    assert caught.value.cause is ConnectCause.REFUSED
    assert "unsupported startup parameter" in str(caught.value)
    assert "remove the parameter from SLUICE_DATABASE_URL" in str(caught.value)


def test_a_service_file_names_the_server(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(database_url)
    (tmp_path / "services").write_text(f"[shop]\nhost={url.host}\nport={url.port}\nuser={url.username}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    own = {name: value for name, value in url.query.items() if name.startswith("sluice_")}
    named = URL.create(url.drivername, database=url.database, query={**own, "service": "shop"})
    with closing(Session(named, application_name="test")) as session:
        assert session.run(Statement("one", "SELECT 1")) == [(1,)]


@pytest.mark.parametrize("attributes", ["primary", "read-write"])
def test_of_several_hosts_the_primary_is_used_by_sessions_and_migrations(
    attributes: str, database_url: str
) -> None:
    url = make_url(database_url)
    hosts = {"host": ("127.0.0.1:1", f"{url.host}:{url.port}"), "target_session_attrs": attributes}
    both = URL.create(url.drivername, url.username, database=url.database, query={**url.query, **hosts})
    with closing(Session(both, application_name="test")) as session:
        assert session.run(Statement("primary", "SELECT pg_is_in_recovery()")) == [(False,)]
    assert current_revision(both.render_as_string(hide_password=False)) == newest_revision()
