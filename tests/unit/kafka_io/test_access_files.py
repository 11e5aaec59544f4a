"""The secrets of a client are those that their files contain now, and a change of any file is found."""

from pathlib import Path
from typing import Any

import confluent_kafka.admin
import kafka
import pytest

from sluice.kafka_io.access_files import AccessFiles, read_current
from sluice.kafka_io.config import build_confluent_admin, build_kafka_python_admin
from sluice.runtime.kafka_access import SECRETS, KafkaAccess, setting
from sluice.runtime.settings import read_kafka_security

LOGIN = {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "username": "me"}
CERTIFICATE = {"security_protocol": "SSL", "certificate_file": "client.pem", "key_file": "client.key"}
BY_TOKEN = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "OAUTHBEARER",
    "oauth_token_url": "https://tokens/",
    "oauth_client_id": "me",
}
COMPANIONS = {
    "kafka_password": LOGIN,
    "kafka_key_password": CERTIFICATE,
    "kafka_oauth_client_secret": BY_TOKEN,
}


def access_of(chosen: dict[str, str]) -> KafkaAccess:
    return KafkaAccess("h:1", read_kafka_security({setting(name): value for name, value in chosen.items()}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Returns a file with a secret."""
    made = tmp_path / "secret"
    made.write_text("first\n")
    return made


@pytest.mark.parametrize("secret", SECRETS)
def test_a_new_client_reads_the_secret_that_its_file_contains_now(secret: str, file: Path) -> None:
    name = secret.removeprefix("kafka_")
    access = access_of({**COMPANIONS[secret], f"{name}_file": str(file)})
    assert getattr(access.security, secret).get_secret_value() == "first"
    file.write_text("second\n")
    assert getattr(read_current(access).security, secret).get_secret_value() == "second"


def test_clients_of_both_libraries_are_made_with_the_content_of_the_file(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    made: list[dict[str, Any]] = []

    class Client:
        def __init__(self, **arguments: Any) -> None:
            made.append(arguments)

    monkeypatch.setattr(confluent_kafka.admin, "AdminClient", made.append)
    monkeypatch.setattr(kafka, "KafkaAdminClient", Client)
    access = access_of({**LOGIN, "password_file": str(file)})
    file.write_text("second")
    build_confluent_admin(access, {})
    build_kafka_python_admin(access)
    assert [made[0]["sasl.password"], made[1]["sasl_plain_password"]] == ["second", "second"]


def test_a_secret_whose_file_is_being_replaced_stays_as_it_was(file: Path) -> None:
    access = access_of({**LOGIN, "password_file": str(file)})
    for break_it in (lambda: file.write_text(""), file.unlink):
        break_it()
        assert read_current(access).security.kafka_password.get_secret_value() == "first"


@pytest.mark.parametrize("name", ["password_file", "ca_file"])
def test_a_change_of_a_file_is_found_until_it_is_noted(name: str, file: Path) -> None:
    other = {"password": "x"} if name == "ca_file" else {}
    files = AccessFiles(access_of({**LOGIN, **other, name: str(file)}))
    assert not files.have_changed()
    file.write_text("second")
    assert files.have_changed()
    files.note()
    assert not files.have_changed()
    file.unlink()
    assert not files.have_changed()


def test_a_process_that_is_started_with_the_same_access_gets_the_file_and_no_secret(file: Path) -> None:
    access = access_of({**LOGIN, "password_file": str(file)})
    environ = access.security.environ()
    assert environ[setting("password_file")] == str(file)
    assert setting("password") not in environ
    assert read_kafka_security(environ) == access.security
