"""Passwords, certificates and tokens that are replaced while events arrive. No process is restarted."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sluice.runtime.kafka_access import KafkaAccess, setting
from sluice.runtime.settings import read_kafka_security
from tests.harness.secure_kafka import CHANGED_PASSWORD, SecureStack
from tests.harness.tokens import token_endpoint
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle
from tests.system.matrix.test_secure_logins import (
    CLIENTS,
    LOGIN_SECONDS,
    SETTLE_SECONDS,
    by_certificate,
    kafka,
    load_of,
    postgres,
    redis,
    secure,
    wait_up,
)

__all__ = ["kafka", "postgres", "redis", "secure"]

pytestmark = [pytest.mark.matrix, pytest.mark.unforked, pytest.mark.timeout(1_800)]

# Of the user's module: each call returns a new token and notes that it was called.
TOKEN_PROVIDER = """\
import time
from pathlib import Path
from tests.harness.tokens import unsecured_token

def give():
    with Path({calls!r}).open("a") as calls:
        calls.write("x")
    return unsecured_token("sluice", {life_seconds}), time.time() + {life_seconds}
"""

CountTokens = Callable[[], int]
TokenSource = Callable[[SecureStack, Path], AbstractContextManager[tuple[KafkaAccess, CountTokens]]]


@contextmanager
def by_endpoint(secure: SecureStack, _: Path) -> Iterator[tuple[KafkaAccess, CountTokens]]:
    """Yields how to log in with tokens of an endpoint, and the function that counts the tokens."""
    with token_endpoint(life_seconds=LOGIN_SECONDS) as (url, requests):
        yield secure.access("OAUTHBEARER", url), lambda: len(requests)


@contextmanager
def by_provider(secure: SecureStack, folder: Path) -> Iterator[tuple[KafkaAccess, CountTokens]]:
    """Yields how to log in with tokens of a function, and the function that counts the tokens."""
    calls = folder / "calls"
    calls.touch()
    (folder / "given_tokens.py").write_text(
        TOKEN_PROVIDER.format(calls=str(calls), life_seconds=LOGIN_SECONDS)
    )
    chosen = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "OAUTHBEARER",
        "token_provider": "given_tokens:give",
    }
    security = read_kafka_security({setting(name): value for name, value in chosen.items()})
    servers = secure.access("OAUTHBEARER", "http://unused/").bootstrap_servers
    yield KafkaAccess(servers, security), lambda: len(calls.read_text())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("source", [by_endpoint, by_provider])
def test_tokens_are_renewed_under_load(
    make_deployment: MakeDeployment, secure: SecureStack, tmp_path: Path, client: str, source: TokenSource
) -> None:
    with source(secure, tmp_path) as (access, count_tokens):
        made = make_deployment(SLUICE_KAFKA_CLIENT=client)
        made.run.urls = replace(
            made.urls,
            kafka_bootstrap_servers=access.bootstrap_servers,
            kafka_security=access.security,
        )
        deployment = by_certificate(made, secure)
        run = made.run
        run.with_metrics = True
        bridge = run.start_bridge()
        processes = [bridge, run.start_worker(), run.start_relay(), run.start_beat()]
        with load_of(deployment) as load:
            load.wait_more(SETTLE_SECONDS)
            wait_up(deployment, bridge, "kafka", 1)
            before = count_tokens()
            # Each login of the bridge and of the relay has ended several times.
            while count_tokens() < before + 12:
                load.wait_more(SETTLE_SECONDS)
            wait_up(deployment, bridge, "kafka", 1)
        deployment.wait_settled(timeout_seconds=240)
        deployment.wait_sent(timeout_seconds=240)
        assert_equals_the_oracle(deployment)
        assert [process.exit_code for process in processes] == [None] * 4
        assert "refuses" not in bridge.log.read_text()
        deployment.close()


class ReplacedFiles:
    """The files of a login at Kafka. The test replaces their content."""

    def __init__(self, secure: SecureStack, folder: Path) -> None:
        access = secure.access("SCRAM")
        self.password, self.authority = folder / "password", folder / "authorities.pem"
        self.password.write_text(access.security.kafka_password.get_secret_value())
        self.authority.write_text(Path(access.security.kafka_ca_file).read_text())
        environ = access.security.environ()
        environ |= {
            setting("password"): "",
            setting("password_file"): str(self.password),
            setting("ca_file"): str(self.authority),
        }
        self.security = read_kafka_security(environ)


@contextmanager
def password_replaced(secure: SecureStack, files: ReplacedFiles) -> Iterator[Callable[[], object]]:
    """Changes the password at the broker. Yields the function that changes it in the file, too."""
    with secure.password_changed():
        yield lambda: files.password.write_text(CHANGED_PASSWORD)


@contextmanager
def authority_replaced(secure: SecureStack, files: ReplacedFiles) -> Iterator[Callable[[], object]]:
    """Changes the authority of the broker's certificate. Yields the function that adds it to the file."""
    with secure.authority_changed() as new:
        yield lambda: files.authority.write_text(files.authority.read_text() + new.read_text())


Replace = Callable[[SecureStack, ReplacedFiles], AbstractContextManager[Callable[[], object]]]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("replace_files", [password_replaced, authority_replaced])
def test_processes_log_in_with_changed_files_without_a_restart(
    make_deployment: MakeDeployment, secure: SecureStack, tmp_path: Path, client: str, replace_files: Replace
) -> None:
    made = make_deployment(SLUICE_KAFKA_CLIENT=client)
    files = ReplacedFiles(secure, tmp_path)
    made.run.urls = replace(made.urls, kafka_security=files.security)
    deployment = by_certificate(made, secure)
    run = made.run
    run.with_metrics = True
    bridge = run.start_bridge()
    processes = [bridge, run.start_relay(), run.start_worker(), run.start_beat()]
    with ExitStack() as changing:
        with load_of(deployment) as load:
            load.wait_more(SETTLE_SECONDS)
            wait_up(deployment, bridge, "kafka", 1)
            change_files = changing.enter_context(replace_files(secure, files))
            wait_up(deployment, bridge, "kafka", 0)
            change_files()
            wait_up(deployment, bridge, "kafka", 1)
            load.wait_more(SETTLE_SECONDS)
        deployment.wait_settled(timeout_seconds=240)
        deployment.wait_sent(timeout_seconds=240)
        assert_equals_the_oracle(deployment)
        assert [process.exit_code for process in processes] == [None] * 4
        run.stop_all()
    deployment.close()
