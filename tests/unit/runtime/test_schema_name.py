"""SLUICE_SCHEMA is a plain name, and reaches sessions and children in the URL of the database."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from sluice.runtime.database_url import libpq_options, without_own_options
from sluice.runtime.schema_name import SchemaRefused, parse_schema, schema_of, with_schema
from sluice.runtime.secret_files import current_url
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import SettingsError, read_schema, read_settings

URL = "postgresql+psycopg2://me:secret@db/shop"
ENVIRON = {
    "SLUICE_DATABASE_URL": URL,
    "SLUICE_REDIS_URL": "redis://cache/0",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "log:9092",
}
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,62}", fullmatch=True)
REFUSED = [
    ("", "no name of a schema"),
    ("Billing", "no name of a schema"),
    ("billing ", "no name of a schema"),
    ("billing\n", "no name of a schema"),
    ('b"; DROP', "no name of a schema"),
    ("bücher", "no name of a schema"),
    ("1st", "no name of a schema"),
    ("a.b", "no name of a schema"),
    ("a" * 64, "no name of a schema"),
    ("public", "taken"),
    ("information_schema", "taken"),
    ("pg_billing", "taken"),
    ("select", "reserved word"),
    ("window", "reserved word"),
]


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_a_name_that_no_schema_of_sluice_may_have_is_refused(name: str, reason: str) -> None:
    with pytest.raises(SchemaRefused, match=reason):
        parse_schema(name)
    with pytest.raises(SettingsError, match=f"SLUICE_SCHEMA: .*{reason}"):
        read_settings({**ENVIRON, "SLUICE_SCHEMA": name})
    with pytest.raises(SettingsError, match=f"SLUICE_SCHEMA: .*{reason}"):
        read_schema({"SLUICE_SCHEMA": name})


def test_without_the_setting_nothing_changes() -> None:
    for environ in (ENVIRON, {**ENVIRON, "SLUICE_SCHEMA": "sluice"}):
        settings = read_settings(environ)
        assert settings.schema_ == read_schema(environ) == "sluice"
        assert settings.database_url.get_secret_value() == URL
        assert "SLUICE_SCHEMA" not in read_addresses(settings).environ()


def test_the_schema_is_read_from_the_url_that_the_settings_make(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("another")
    more = {"SLUICE_SCHEMA": "billing", "SLUICE_DATABASE_PASSWORD_FILE": str(tmp_path / "password")}
    urls = read_addresses(read_settings({**ENVIRON, **more}))
    assert schema_of(make_url(urls.database_url)) == "billing"
    # A child of this process gets the same addresses, with or without the setting.
    for environ in (urls.environ(), {**urls.environ(), "SLUICE_SCHEMA": "billing"}):
        child = read_settings(environ)
        assert child.schema_ == read_schema(environ) == "billing"
        assert child.database_url.get_secret_value() == urls.database_url
    # Each connect removes the option, because libpq has none of this name.
    url = make_url(current_url(urls.database_url))
    assert schema_of(url) == "billing"
    assert libpq_options(url)["password"] == "another"
    assert not any(name.startswith("sluice") for name in libpq_options(url))
    assert without_own_options(url).render_as_string(hide_password=False) == URL.replace("secret", "another")


def test_two_different_schemas_are_refused() -> None:
    named = with_schema(URL, "billing")
    environ = {**ENVIRON, "SLUICE_DATABASE_URL": named, "SLUICE_SCHEMA": "shipping"}
    with pytest.raises(SettingsError, match=r"SLUICE_SCHEMA: is 'shipping'.*sluice_schema=billing"):
        read_settings(environ)


@given(NAMES, st.sampled_from([URL, URL + "?sslmode=require&host=a&host=b"]))
def test_the_url_keeps_a_valid_name(name: str, url: str) -> None:
    try:
        parse_schema(name)
    except SchemaRefused:
        return
    named = with_schema(url, name)
    assert schema_of(make_url(named)) == name
    assert with_schema(named, name) == named
    assert without_own_options(make_url(named)) == make_url(url)
