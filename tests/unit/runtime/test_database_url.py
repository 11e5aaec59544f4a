"""The options of SLUICE_DATABASE_URL: what libpq receives, and what is refused."""

import pytest
from sqlalchemy.engine import make_url

from sluice.runtime.database_url import UrlRefused, libpq_options

PREFER_STANDBY = "remove target_session_attrs=prefer-standby: Sluice uses the primary"
TWO_HOSTS = {"host": "a,b", "port": "1,2", "user": "u", "dbname": "d", "target_session_attrs": "read-write"}


@pytest.mark.parametrize(
    "query", ["host=a:1&host=b:2", "host=a:1,b:2", "host=a,b&port=1,2", "host=a&host=b&port=1,2"]
)
def test_several_hosts_are_written_in_any_form(query: str) -> None:
    assert libpq_options(make_url(f"postgresql+psycopg2://u@/d?{query}")) == TWO_HOSTS


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("/run/postgresql", ("/run/postgresql", None)),
        ("[::1]:5433", ("::1", "5433")),
        ("a,b:2", ("a,b", "5432,2")),
    ],
)
def test_sockets_and_addresses_are_hosts(host: str, expected: tuple[str, str | None]) -> None:
    options = libpq_options(make_url(f"postgresql+psycopg2://u@/d?host={host}"))
    assert (options["host"], options.get("port")) == expected


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("h/d?application_name=x", "remove application_name: Sluice names its sessions itself"),
        ("h/d?client_encoding=latin1", "remove client_encoding: Sluice's sessions use UTF8"),
        ("h/d?target_session_attrs=any", "remove target_session_attrs=any: Sluice uses the primary"),
        ("h/d?target_session_attrs=prefer-standby", PREFER_STANDBY),
        ("h/d?dsn=x", "remove dsn: Postgres has no such option"),
        ("h/d?host=b", "host is given twice, in the query and before it; remove one"),
        ("h/d?sslmode=a&sslmode=b", "sslmode is given twice in the query; remove one"),
        ("%2Frun%2Fpg/d", "%2Frun%2Fpg is no host; write a Unix socket as ?host=/run/pg"),
        ("[::1],[::2]/d", "several hosts are written ?host=[::1]:5432&host=[::2]:5432"),
        ("/d?host=a:1&port=2", "port is given twice, as an option and with a host; remove one"),
    ],
)
def test_an_option_that_cannot_work_is_refused_in_one_sentence(rest: str, reason: str) -> None:
    with pytest.raises(UrlRefused) as caught:
        libpq_options(make_url(f"postgresql+psycopg2://u@{rest}"))
    assert str(caught.value) == reason


def test_other_options_reach_libpq_and_own_options_do_not() -> None:
    url = make_url("postgresql+psycopg2://u@h/d?sslmode=require&options=-c%20a%3Db&sluice_x=y")
    options = libpq_options(url)
    assert (options["sslmode"], options["options"]) == ("require", "-c a=b")
    assert "sluice_x" not in options


@pytest.mark.parametrize("attributes", ["primary", "read-write"])
def test_the_primary_is_one_that_accepts_writes(attributes: str) -> None:
    options = libpq_options(make_url(f"postgresql+psycopg2://u@h/d?target_session_attrs={attributes}"))
    assert options["target_session_attrs"] == "read-write"
