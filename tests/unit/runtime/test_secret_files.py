"""A secret may be a setting or a file, may hold any character, and is read from its file at each connect."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from sluice.runtime.secret_files import SecretUnreadable, current_url
from sluice.runtime.settings import SECRETS, SettingsError, read_settings

ENVIRON = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://me:of-the-url@db:5432/sluice?sslmode=require",
    "SLUICE_REDIS_URL": "rediss://me:of-the-url@cache:6380/0",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "log:9092",
}
PRINTABLE = string.digits + string.ascii_letters + string.punctuation + " "
PASSWORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)


def database_url(**environ: str) -> str:
    settings = read_settings({**ENVIRON, **environ})
    return current_url(settings.database_url.get_secret_value())


@given(PASSWORDS)
def test_a_password_may_hold_any_printable_character(password: str) -> None:
    url = make_url(database_url(SLUICE_DATABASE_PASSWORD=password))
    assert (url.password, url.username, url.host, url.port) == (password, "me", "db", 5432)
    assert url.query == {"sslmode": "require"}


@pytest.mark.parametrize("given_url", ["me:p@ss@db:5432/x", "me@db:5432/x", "db:5432/x", ":old@db:5432/x"])
def test_the_password_takes_precedence_over_that_of_the_url(given_url: str) -> None:
    made = database_url(
        SLUICE_DATABASE_URL=f"postgresql+psycopg2://{given_url}",
        SLUICE_DATABASE_PASSWORD=string.printable[:94],
    )
    assert (make_url(made).password, make_url(made).host) == (string.printable[:94], "db")


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "pass word&?#"
    file.write_text("first\n")
    settings = read_settings({**ENVIRON, "SLUICE_DATABASE_PASSWORD_FILE": str(file)})
    url = settings.database_url.get_secret_value()
    assert make_url(current_url(url)).password == "first"
    file.write_text("p@s/s:ä\n")
    assert make_url(current_url(url)).password == "p@s/s:ä"
    assert make_url(current_url(url)).query == {"sslmode": "require"}
    file.unlink()
    with pytest.raises(SecretUnreadable, match="No such file"):
        current_url(url)


def test_user_and_password_of_a_url_in_a_file_are_read_again(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql+psycopg2://first:one@db/x\n")
    environ = {**ENVIRON, "SLUICE_DATABASE_URL_FILE": str(file)}
    environ.pop("SLUICE_DATABASE_URL")
    url = read_settings(environ).database_url.get_secret_value()
    file.write_text("postgresql+psycopg2://second:two@elsewhere/y\n")
    made = make_url(current_url(url))
    assert (made.username, made.password, made.host, made.database) == ("second", "two", "db", "x")


# The settings without which a secret of Kafka has no use.
LOGIN = {"SLUICE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "SLUICE_KAFKA_SASL_MECHANISM": "PLAIN"}
COMPANIONS = {
    "kafka_password": {**LOGIN, "SLUICE_KAFKA_USERNAME": "me"},
    "kafka_key_password": {
        "SLUICE_KAFKA_SECURITY_PROTOCOL": "SSL",
        "SLUICE_KAFKA_CERTIFICATE_FILE": "client.crt",
        "SLUICE_KAFKA_KEY_FILE": "client.key",
    },
    "kafka_oauth_client_secret": {
        **LOGIN,
        "SLUICE_KAFKA_SASL_MECHANISM": "OAUTHBEARER",
        "SLUICE_KAFKA_OAUTH_TOKEN_URL": "https://tokens/",
        "SLUICE_KAFKA_OAUTH_CLIENT_ID": "me",
    },
}


@pytest.mark.parametrize("secret", SECRETS)
def test_each_secret_may_be_in_a_file(secret: str, tmp_path: Path) -> None:
    name = f"SLUICE_{secret.upper()}"
    file = tmp_path / "secret"
    file.write_text(ENVIRON.get(name, "hunter2"))
    environ = {other: value for other, value in ENVIRON.items() if other != name}
    environ |= COMPANIONS.get(secret, {})
    if secret == "redis_sentinel_password":
        with pytest.raises(SettingsError, match=f"{name} is set, but SLUICE_REDIS_URL is no sentinel://"):
            read_settings({**environ, name: "hunter2"})
        environ["SLUICE_REDIS_URL"] = "sentinel://a/main"
    read = getattr(read_settings({**environ, f"{name}_FILE": str(file)}), secret).get_secret_value()
    assert read.startswith(ENVIRON.get(name, "hunter2"))
    with pytest.raises(SettingsError, match=f"{name} and {name}_FILE are both set"):
        read_settings({**environ, f"{name}_FILE": str(file), name: "hunter2"})
    with pytest.raises(SettingsError, match=f"{name}_FILE: cannot read the file .*No such file"):
        read_settings({**environ, f"{name}_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize("wrong", ["hunter2", "postgresql://me:hunter2@db/x", "hunter2@db"])
@pytest.mark.parametrize("password", ["", "hunter2"])
def test_no_error_contains_a_secret(wrong: str, password: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({**ENVIRON, "SLUICE_DATABASE_URL": wrong, "SLUICE_DATABASE_PASSWORD": password})
    assert "hunter2" not in str(refused.value)
