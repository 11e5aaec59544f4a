"""The provider of the password is asked at each connect. Its failures are sentences without secrets."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from sqlalchemy.engine import make_url

from sluice.db.connect_failures import ConnectCause, ConnectFailed
from sluice.db.connecting import open_connection
from sluice.runtime.secret_files import current_url
from sluice.runtime.settings import SettingsError, read_settings

ENVIRON = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://me@127.0.0.1:1/sluice?sslmode=require",
    "SLUICE_REDIS_URL": "redis://cache/0",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "log:9092",
    "SLUICE_DATABASE_PASSWORD_PROVIDER": "providing:password",
}


@pytest.fixture
def provide(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], str]:
    """Returns a function that makes a provider and returns the URL that names it."""

    def make(function: object) -> str:
        module = ModuleType("providing")
        module.password = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "providing", module)
        return read_settings(ENVIRON).database_url.get_secret_value()

    return make


def test_the_provider_is_asked_at_each_connect(provide: Callable[[object], str]) -> None:
    passwords: Iterator[str] = iter(["first@", "second/"])
    url = provide(lambda: next(passwords))
    assert [make_url(current_url(url)).password for _ in range(2)] == ["first@", "second/"]


def test_a_provider_and_a_password_are_not_set_together() -> None:
    with pytest.raises(SettingsError, match="PROVIDER and SLUICE_DATABASE_PASSWORD are both set"):
        read_settings({**ENVIRON, "SLUICE_DATABASE_PASSWORD": "x"})
    with pytest.raises(SettingsError, match="SLUICE_DATABASE_PASSWORD_PROVIDER"):
        read_settings({**ENVIRON, "SLUICE_DATABASE_PASSWORD_PROVIDER": "no function"})


def fail() -> str:
    raise RuntimeError("the token hunter2 is not valid")


REFUSED = "SLUICE_DATABASE_PASSWORD_PROVIDER: "


@pytest.mark.parametrize(
    ("function", "cause", "sentence"),
    [
        (fail, ConnectCause.AWAY, "cannot connect to Postgres: providing:password raised RuntimeError"),
        (None, ConnectCause.REFUSED, f"{REFUSED}module providing has no function password"),
        (str, ConnectCause.REFUSED, f"{REFUSED}providing:password returned no password as str"),
    ],
)
def test_a_failing_provider_is_one_sentence_without_a_secret(
    function: object, cause: ConnectCause, sentence: str, provide: Callable[[object], str]
) -> None:
    url = make_url(provide(function))
    with pytest.raises(ConnectFailed) as caught:
        open_connection(url, settings={}, application_name="test")
    assert (caught.value.cause, str(caught.value)) == (cause, sentence)
