"""The settings of every connection to Postgres."""

from contextlib import closing

from sqlalchemy.engine import make_url

from sluice.db.connecting import CONNECTION
from sluice.db.connection import Session


def test_client_and_server_detect_that_the_other_side_has_vanished(database_url: str) -> None:
    with closing(Session(database_url, application_name="test")) as session:
        given = session.connection.info.dsn_parameters
        assert {name: given[name] for name in CONNECTION} == {
            n: str(value) for n, value in CONNECTION.items()
        }
        with session.connection.cursor() as cursor:
            cursor.execute("SHOW tcp_keepalives_idle")
            assert cursor.fetchone() == ("10",)


def test_connection_settings_in_the_url_take_precedence(database_url: str) -> None:
    url = make_url(database_url).update_query_dict({"tcp_user_timeout": "123456"})
    with closing(Session(url.render_as_string(hide_password=False), application_name="test")) as session:
        assert session.connection.info.dsn_parameters["tcp_user_timeout"] == "123456"
