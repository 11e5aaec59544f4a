"""The tokens of OAUTHBEARER: they are renewed in time, and a failure is one sentence without a secret."""

import builtins
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sluice.kafka_io.tokens import RenewedTokens, Token, TokenUnavailable, build_tokens, find_region
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.settings import SettingsError, read_kafka_security

MSK = {"SLUICE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "SLUICE_KAFKA_SASL_MECHANISM": "AWS_MSK_IAM"}
BROKER = "b-1.name.x1.c2.kafka.eu-west-1.amazonaws.com:9098"


def by_provider(name: str) -> KafkaAccess:
    chosen = {
        "SLUICE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "SLUICE_KAFKA_SASL_MECHANISM": "OAUTHBEARER",
        "SLUICE_KAFKA_TOKEN_PROVIDER": name,
    }
    return KafkaAccess("h:1", read_kafka_security(chosen))


def test_a_token_is_kept_until_four_fifths_of_its_life_have_passed() -> None:
    now = 1_000.0
    made: list[float] = []

    def make() -> Token:
        made.append(now)
        return Token(f"t{len(made)}", now + 100)

    tokens = RenewedTokens(make, clock=lambda: now)
    for at, expected in ((1_000.0, "t1"), (1_079.0, "t1"), (1_080.0, "t2"), (1_159.0, "t2"), (1_161.0, "t3")):
        now = at
        assert tokens().value == expected


def test_the_function_of_the_user_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_login")
    monkeypatch.setitem(sys.modules, "my_login", module)
    module.token = lambda: ("abc", 12)  # type: ignore[attr-defined]
    assert build_tokens(by_provider("my_login:token"))() == Token("abc", 12.0)
    module.token = lambda: "abc-secret"  # type: ignore[attr-defined]
    with pytest.raises(TokenUnavailable, match=r"^SLUICE_KAFKA_TOKEN_PROVIDER: ") as raised:
        build_tokens(by_provider("my_login:token"))()
    assert "abc-secret" not in str(raised.value)


@pytest.mark.parametrize("name", ["no_such_module:f", "json:no_such_function"])
def test_a_missing_function_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"^SLUICE_KAFKA_TOKEN_PROVIDER: "):
        build_tokens(by_provider(name))


def test_a_missing_extra_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "aws_msk_iam_sasl_signer":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingsError, match=r"pip install 'sluice-kafka\[msk\]'"):
        build_tokens(KafkaAccess(BROKER, read_kafka_security(MSK)))


def test_the_signer_of_aws_gets_the_region_and_its_token_is_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = ModuleType("aws_msk_iam_sasl_signer")
    signer = SimpleNamespace(generate_auth_token=lambda region: (f"signed for {region}", 9_000))
    module.MSKAuthTokenProvider = signer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "aws_msk_iam_sasl_signer", module)
    assert build_tokens(KafkaAccess(BROKER, read_kafka_security(MSK)))() == Token("signed for eu-west-1", 9.0)


def test_the_region_is_that_of_the_brokers_or_of_the_environment() -> None:
    assert find_region(BROKER, "us-east-1") == "eu-west-1"
    assert find_region("proxy:9098", "us-east-1") == "us-east-1"
    with pytest.raises(SettingsError, match="AWS_REGION"):
        find_region("proxy:9098", "")
