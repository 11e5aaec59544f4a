"""A URL of the database that cannot work is refused in one sentence, before a connect."""

import pytest
from typer.testing import CliRunner

from sluice.cli.main import app
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import SettingsError, read_settings

SECRET = "hunter2"
ENVIRON = {"SLUICE_REDIS_URL": "redis://cache:1/0", "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "log:9092"}
REFUSED = [
    (
        "h/d?application_name=x",
        "SLUICE_DATABASE_URL: remove application_name: Sluice names its sessions itself",
    ),
    (
        "h/d?target_session_attrs=standby",
        "SLUICE_DATABASE_URL: remove target_session_attrs=standby: Sluice uses the primary",
    ),
    (
        "%2Frun%2Fpg/d",
        "SLUICE_DATABASE_URL: %2Frun%2Fpg is no host; write a Unix socket as ?host=/run/pg",
    ),
    (
        "a:5432,b:5433/d",
        "SLUICE_DATABASE_URL cannot be read as a URL; several hosts are written"
        " postgresql+psycopg2://user@/database?host=a:5432&host=b:5432",
    ),
]


@pytest.mark.parametrize(("rest", "sentence"), REFUSED)
def test_a_url_that_cannot_work_is_refused_in_one_sentence(rest: str, sentence: str) -> None:
    environ = {**ENVIRON, "SLUICE_DATABASE_URL": f"postgresql+psycopg2://me:{SECRET}@{rest}"}
    with pytest.raises(SettingsError) as caught:
        read_addresses(read_settings(environ))
    assert str(caught.value) == sentence
    done = CliRunner().invoke(app, ["status"], env=environ)
    assert (done.exit_code, done.output) == (2, f"sluice: {sentence}\n")
