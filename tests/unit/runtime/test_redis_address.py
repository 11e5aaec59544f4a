"""One parser reads SLUICE_REDIS_URL for both clients. TLS verifies unless the URL turns this off."""

from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.runtime.redis_address import parse_redis_url
from sluice.runtime.settings import SettingsError, read_settings

ENVIRON = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://me@db/sluice",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "log:9092",
}
VERIFIED = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}

ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    ("redis://cache", {"servers": (("cache", 6379),), "database": 0, "tls": None}),
    ("redis://:p%40ss@cache:7000/3", {"servers": (("cache", 7000),), "database": 3, "password": "p@ss"}),
    ("redis://me:p@ss@[::1]:7000", {"servers": (("::1", 7000),), "username": "me", "password": "p@ss"}),
    ("rediss://cache", {"servers": (("cache", 6379),), "tls": VERIFIED}),
    (
        "rediss://cache?ssl_ca_certs=/a%20b&ssl_certfile=/c&ssl_keyfile=/k",
        {"tls": {**VERIFIED, "ssl_ca_certs": "/a b", "ssl_certfile": "/c", "ssl_keyfile": "/k"}},
    ),
    ("rediss://cache?ssl_check_hostname=false", {"tls": {**VERIFIED, "ssl_check_hostname": False}}),
    (
        "rediss://cache?ssl_cert_reqs=CERT_NONE",
        {"tls": {"ssl_cert_reqs": "none", "ssl_check_hostname": False}},
    ),
    ("unix://me:secret@/run/redis.sock?db=2", {"path": "/run/redis.sock", "database": 2, "username": "me"}),
    (
        "sentinel://:pw@a,b:7000,[::1]/main/2",
        {
            "servers": (("a", 26379), ("b", 7000), ("::1", 26379)),
            "service": "main",
            "database": 2,
            "password": "pw",
            "tls": None,
        },
    ),
    (
        "sentinels://a/main?sentinel_username=s&sentinel_password=p%26",
        {"service": "main", "sentinel_username": "s", "sentinel_password": "p&", "tls": VERIFIED},
    ),
]


@pytest.mark.parametrize(("url", "parts"), ACCEPTED, ids=[url for url, _ in ACCEPTED])
def test_a_valid_address_is_parsed(url: str, parts: dict[str, Any]) -> None:
    address = parse_redis_url(url)
    assert {name: getattr(address, name) for name in parts} == parts


@pytest.mark.parametrize(
    ("url", "reads_files"),
    [
        ("redis://cache", False),
        ("redis://cache?sluice_password_file=/p", True),
        ("redis://:pw@cache?sluice_url_file=/u", True),
        ("redis://cache?sluice_url_file=/u", False),
        ("sentinel://a/main?sluice_sentinel_password_file=/s", False),
    ],
)
def test_only_a_login_that_exists_is_read_from_a_file(url: str, reads_files: bool) -> None:
    assert parse_redis_url(url).reads_files is reads_files


REFUSED = [
    ("http://:hunter2@cache", "begin with redis://, rediss://"),
    ("hunter2", "begin with redis://"),
    ("redis://:hunter2/x@cache:6379/0", "SLUICE_REDIS_PASSWORD"),
    ("redis://:hunter2#x@cache:6379/0", "SLUICE_REDIS_PASSWORD"),
    ("redis://:hunter2?x@cache:6379/0", "SLUICE_REDIS_PASSWORD|an option is unknown"),
    ("redis://cache:port/0", "not of the form"),
    ("redis://cache/zero", "not of the form"),
    ("redis://cache?ssl_ca_certs=/ca", "the option ssl_ca_certs is unknown; .*TLS needs rediss://"),
    ("rediss://cache?hunter2=1", "an option is unknown; rediss:// takes ssl_ca_certs"),
    ("rediss://cache?ssl_cert_reqs=optional", "ssl_cert_reqs must be required or none"),
    ("rediss://cache?ssl_check_hostname=maybe", "ssl_check_hostname must be true or false"),
    ("rediss://cache?ssl_certfile=/c", "belong together"),
    ("rediss://cache?ssl_ca_certs=/no/such/file", "cannot read the file /no/such/file"),
    ("sentinel://a,b", "needs the name"),
    ("unix://host/run/redis.sock", "unix:///path"),
]


@pytest.mark.parametrize(("url", "text"), REFUSED)
def test_an_address_that_no_client_can_use_is_refused(url: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"SLUICE_REDIS_URL: .*({text})") as refused:
        read_settings({**ENVIRON, "SLUICE_REDIS_URL": url})
    assert "hunter2" not in str(refused.value)


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_escaped_user_and_password_is_parsed(username: str, password: str) -> None:
    try:
        login = f"{quote(username, safe='')}:{quote(password, safe='')}"
    except UnicodeEncodeError:
        return
    for url in (f"redis://{login}@cache/1", f"sentinel://{login}@a,b/main", f"unix://{login}@/run/r"):
        address = parse_redis_url(url)
        assert (address.username, address.password) == (username, password)
    shown = repr(parse_redis_url(f"redis://{quote(username, safe='')}:hunter2@cache/1"))
    assert "hunter2" not in shown.replace(repr(username), "")


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for scheme in ("", "redis://", "rediss://", "unix://", "sentinel://"):
        with suppress(ValueError):
            parse_redis_url(scheme + text)
