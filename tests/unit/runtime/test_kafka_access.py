"""The settings of the connections to Kafka: half-set combinations are refused, and no text has a secret."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.kafka_io.config import kafka_python_arguments, librdkafka_properties
from sluice.runtime.kafka_access import KafkaAccess, KafkaSecurity, Mechanism, Protocol, setting
from sluice.runtime.settings import SettingsError, read_kafka_security, read_settings

OTHERS = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://host/database",
    "SLUICE_REDIS_URL": "redis://host:1/0",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "log:9092",
}
SECRETS = ("password", "key_password", "oauth_client_secret")
TLS = {"security_protocol": "SSL"}
LOGIN = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "username": "u",
    "password": "p-secret",
}
ENDPOINT = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "OAUTHBEARER",
    "oauth_token_url": "https://login/token",
    "oauth_client_id": "me",
    "oauth_client_secret": "c-secret",
}
PROVIDER = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "OAUTHBEARER",
    "token_provider": "a.b:c",
}
CERTIFICATE = {**TLS, "certificate_file": "c.pem", "key_file": "k.pem", "key_password": "k-secret"}
WHOLE: tuple[dict[str, str], ...] = (
    {},
    TLS,
    {**TLS, "ca_file": "ca.pem"},
    CERTIFICATE,
    LOGIN,
    {**LOGIN, "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"},
    {**LOGIN, "ca_file": "ca.pem", "certificate_file": "c.pem", "key_file": "k.pem"},
    ENDPOINT,
    {**ENDPOINT, "oauth_scope": "kafka"},
    PROVIDER,
    {"security_protocol": "SASL_SSL", "sasl_mechanism": "AWS_MSK_IAM"},
)


def environ(chosen: dict[str, str]) -> dict[str, str]:
    return {setting(name): value for name, value in chosen.items()}


@pytest.mark.parametrize("chosen", WHOLE)
def test_a_whole_combination_is_accepted_and_passed_on(chosen: dict[str, str]) -> None:
    settings = read_settings({**OTHERS, **environ(chosen)})
    assert settings.kafka_access.security.environ() == environ(chosen)


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        ({"security_protocol": "SASL_SSL"}, "sasl_mechanism"),
        ({"sasl_mechanism": "PLAIN", "username": "u", "password": "p"}, "sasl_mechanism"),
        *(({name: "x"}, name) for name in ("ca_file", "certificate_file", "key_file", "key_password")),
        ({**TLS, "certificate_file": "c"}, "key_file"),
        ({**TLS, "key_file": "k"}, "certificate_file"),
        ({**TLS, "key_password": "k"}, "key_file"),
        *(({**LOGIN, name: ""}, name) for name in ("username", "password")),
        *(({name: "x"}, name) for name in ("username", "password", "oauth_client_id", "oauth_scope")),
        ({**LOGIN, "oauth_client_id": "x"}, "oauth_client_id"),
        ({**LOGIN, "token_provider": "a:b"}, "token_provider"),
        *(({**ENDPOINT, name: ""}, name) for name in ENDPOINT if name.startswith("oauth_")),
        ({**ENDPOINT, "username": "u"}, "username"),
        ({**PROVIDER, "token_provider": ""}, "oauth_token_url"),
        ({**PROVIDER, "oauth_scope": "x"}, "oauth_scope"),
        ({**PROVIDER, "token_provider": "a.b"}, "token_provider"),
        ({**ENDPOINT, "oauth_token_url": "login/token"}, "oauth_token_url"),
        ({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "AWS_MSK_IAM"}, "security_protocol"),
        ({"security_protocol": "TLS"}, "security_protocol"),
        ({**LOGIN, "sasl_mechanism": "GSSAPI"}, "sasl_mechanism"),
    ],
)
def test_a_half_set_combination_is_refused_with_the_name_of_the_setting(
    chosen: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({**OTHERS, **environ(chosen)})
    assert str(refused.value).startswith(f"{setting(named)}: ")


VALUE = st.sampled_from(["", "a-value"])
FIELDS = [name.removeprefix("kafka_") for name in KafkaSecurity.model_fields]
IN_FILES = {f"{secret}_file" for secret in SECRETS}
FREE = sorted(set(FIELDS) - {"security_protocol", "sasl_mechanism", "properties"} - IN_FILES)
ANY = st.fixed_dictionaries(
    {
        "security_protocol": st.sampled_from(get_args(Protocol)),
        **dict.fromkeys(FREE, VALUE),
    },
    optional={"sasl_mechanism": st.sampled_from(get_args(Mechanism))},
)


@given(ANY, st.sampled_from(SECRETS))
def test_any_combination_is_accepted_or_refused_by_one_sentence_without_secrets(
    chosen: dict[str, str], secret: str
) -> None:
    chosen = {**chosen, secret: "very-secret"}
    if chosen["token_provider"]:
        chosen["token_provider"] = "a:b"
    if chosen["oauth_token_url"]:
        chosen["oauth_token_url"] = "https://a"
    try:
        access = KafkaAccess("h:1", read_kafka_security(environ(chosen)))
    except SettingsError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "very-secret" not in refused
        assert refused.startswith("SLUICE_KAFKA_")
        return
    assert "very-secret" not in f"{access} {access.security} {access!r}"
    # An accepted setting is used, by both clients.
    for made in (librdkafka_properties(access, {}), kafka_python_arguments(access, {})):
        used = set(map(str, made.values()))
        for name in ("ca_file", "certificate_file", "key_file", "key_password", "username", "password"):
            value = chosen[name]
            assert not value or value in used, name


@given(text=st.text())
def test_a_secret_of_any_characters_is_read_and_never_shown(text: str) -> None:
    read = read_kafka_security(environ({**CERTIFICATE, "key_password": f"<{text}>"}))
    assert f"<{text}>" not in repr(read)
    assert read.kafka_key_password.get_secret_value() == f"<{text}>"


@pytest.mark.parametrize(
    "name",
    [
        *("auto.offset.reset", "enable.auto.commit", "auto.commit.enable", "isolation.level", "group.id"),
        *("enable.idempotence", "acks", "request.required.acks", "partitioner", "transactional.id"),
        *("partition.assignment.strategy", "message.timeout.ms", "delivery.timeout.ms", "retries"),
        *("message.send.max.retries", "max.in.flight", "max.in.flight.requests.per.connection"),
        *("session.timeout.ms", "max.poll.interval.ms", "fetch.error.backoff.ms", "bootstrap.servers"),
        *("metadata.broker.list", "security.protocol", "sasl.mechanisms", "sasl.mechanism", "sasl.password"),
        *("ssl.ca.location", "ssl.certificate.verify_cb", "enable.ssl.certificate.verification"),
        *("group.instance.id", "heartbeat.interval.ms", "queuing.strategy", "error_cb", "oauth_cb"),
        *("on_commit", "logger", "default.topic.config", "plugin.library.paths", "test.mock.num.brokers"),
    ],
)
def test_a_property_that_carries_a_promise_is_refused_by_its_name(name: str) -> None:
    text = json.dumps({"linger.ms": 5, name: 1})
    with pytest.raises(SettingsError, match=rf"^SLUICE_KAFKA_PROPERTIES: .*{name}"):
        read_kafka_security({setting("properties"): text})


@pytest.mark.parametrize("text", ["{", "[]", "1", "null", '{"linger.ms": null}', '{"linger.ms": {"a": 1}}'])
def test_properties_that_are_not_an_object_of_plain_values_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^SLUICE_KAFKA_PROPERTIES: "):
        read_kafka_security({setting("properties"): text})


TUNING = st.dictionaries(
    st.sampled_from(["linger.ms", "fetch.min.bytes", "client.rack", "socket.nagle.disable"]),
    st.integers() | st.booleans() | st.text(),
)


@given(TUNING)
def test_tuning_replaces_only_the_properties_that_it_names(tuning: dict[str, Any]) -> None:
    own = {"linger.ms": 1, "fetch.min.bytes": 2, "acks": "all"}
    access = KafkaAccess("h:1", read_kafka_security({setting("properties"): json.dumps(tuning)}))
    assert librdkafka_properties(access, own) == {
        **librdkafka_properties(KafkaAccess("h:1"), own),
        **tuning,
    }
    assert kafka_python_arguments(access, {}) == kafka_python_arguments(KafkaAccess("h:1"), {})


def test_only_other_machines_are_reached_in_plain_text() -> None:
    near = "localhost:1,127.0.0.1:2,[::1]:3"
    assert KafkaAccess(f"{near},kafka:9092,127.0.0.1.example:4").find_plaintext() == [
        "kafka:9092",
        "127.0.0.1.example:4",
    ]
    assert KafkaAccess(near).find_plaintext() == []
    assert KafkaAccess("kafka:9092", read_kafka_security(environ(TLS))).find_plaintext() == []
