"""The partition or group that an error of a Kafka client concerns, and the action that follows."""

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import kafka_errors

from sluice.kafka_io.kafka_errors import (
    _ACTIONS,
    _GROUP_CODES,
    AWAY_CODES,
    ErrorAction,
    find_advice,
    judge_error,
    may_be_refused,
)

PLACE = ("t", 3)


@pytest.mark.parametrize(
    ("code", "action"),
    [
        ("_PARTITION_EOF", ErrorAction.IGNORE),
        ("OFFSET_OUT_OF_RANGE", ErrorAction.POSITION_LOST),
        ("_AUTO_OFFSET_RESET", ErrorAction.POSITION_LOST),
        ("_LOG_TRUNCATION", ErrorAction.TRUNCATED),
        ("LEADER_NOT_AVAILABLE", ErrorAction.NO_LEADER),
        ("TOPIC_AUTHORIZATION_FAILED", ErrorAction.NOT_AUTHORIZED),
        ("_BAD_COMPRESSION", ErrorAction.UNREADABLE_RECORD),
        ("UnsupportedCodecError", ErrorAction.UNREADABLE_RECORD),
        ("FENCED_INSTANCE_ID", ErrorAction.REPLACE_CONSUMER),
        ("_TRANSPORT", ErrorAction.OTHER),
        ("A_CODE_OF_A_LATER_BROKER", ErrorAction.OTHER),
    ],
)
def test_the_action_follows_from_the_error_code(code: str, action: ErrorAction) -> None:
    error = judge_error(code, "why", place=PLACE, offset=5)
    assert error == (code, "why", action, "t", 3, 5, False)


@given(st.text(min_size=1), st.none() | st.just(PLACE))
def test_every_error_has_an_action_and_a_fatal_error_replaces_the_consumer(
    code: str, place: tuple[str, int] | None
) -> None:
    assert judge_error(code, "why", place=place).action in ErrorAction
    assert judge_error(code, "why", place=place, fatal=True).action is ErrorAction.REPLACE_CONSUMER


@pytest.mark.parametrize("code", sorted(_GROUP_CODES))
def test_a_refusal_without_a_topic_concerns_the_whole_group(code: str) -> None:
    assert judge_error(code, "why").of_group
    assert not judge_error(code, "why", topic="t").of_group
    assert not judge_error(code, "why", place=PLACE).of_group


def test_a_connection_error_concerns_no_partition() -> None:
    error = judge_error("_TRANSPORT", "broker is down")
    assert (error.topic, error.partition, error.of_group) == (None, None, False)


def test_every_named_error_code_exists_in_one_of_the_libraries() -> None:
    names = {name for name in dir(KafkaError) if name.strip("_").isupper()}
    names |= {error.message for error in kafka_errors.values()}
    named = {code for codes in _ACTIONS.values() for code in codes} | _GROUP_CODES | AWAY_CODES
    classes = {code for code in named if not code.isupper()}
    assert named - classes <= names


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("SASL authentication error: Authentication failed: Invalid username or password", True),
        ("KafkaError{code=_AUTHENTICATION,val=-169}", True),
        ("ssl://b:9093/bootstrap: SSL handshake failed: certificate verify failed", True),
        (
            "b:9093/bootstrap: Disconnected while requesting ApiVersion: might be caused by incorrect"
            " security.protocol configuration (connecting to a SSL listener?)",
            True,
        ),
        ("CLUSTER_AUTHORIZATION_FAILED", True),
        ("b:9092/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused", False),
        ("Failed to resolve 'b:9092': Name or service not known", False),
        ("KafkaTimeoutError: Unable to bootstrap from ['b:9092']", False),
        ("1/1 brokers are down", False),
    ],
)
def test_advice_is_given_only_for_errors_that_retries_cannot_solve(text: str, is_refused: bool) -> None:
    assert (find_advice(text) is not None) == is_refused


@pytest.mark.parametrize(
    ("code", "topic", "suspicious"),
    [
        ("_AUTHENTICATION", None, True),
        ("_SSL", None, True),
        ("SaslAuthenticationFailedError", None, True),
        ("KafkaConnectionError", None, True),
        ("_TRANSPORT", None, True),
        ("TOPIC_AUTHORIZATION_FAILED", "orders", False),
        ("GROUP_AUTHORIZATION_FAILED", None, False),
        ("_MAX_POLL_EXCEEDED", None, False),
    ],
)
def test_a_failed_connection_makes_a_refused_login_possible(
    code: str, topic: str | None, suspicious: bool
) -> None:
    assert may_be_refused(judge_error(code, "", topic=topic)) is suspicious
