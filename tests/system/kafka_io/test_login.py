"""Both clients log in at a real broker with each protocol, and a refusal names the setting."""

import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AclOperation, ResourceType  # type: ignore[attr-defined]
from pydantic import SecretStr

from sluice.admin.doctor.kafka_reading import read_missing_rights
from sluice.admin.init import create_topics
from sluice.kafka_io.config import (
    build_confluent_admin,
    build_kafka_python_admin,
    build_kafka_python_producer,
)
from sluice.kafka_io.login_check import find_group_refusal, find_refusal
from sluice.kafka_io.producer import ConfluentProducer
from sluice.kafka_io.record_types import Delivery, OutgoingRecord
from sluice.runtime.installation import InstallationRefused
from sluice.runtime.kafka_access import PLAINTEXT, KafkaAccess, setting
from sluice.runtime.partition_share import WHOLE
from sluice.runtime.place import Place
from sluice.stack.certificates import issue, make_authority
from sluice.tasks.fold.registry import collect_handlers
from tests.harness import stacks
from tests.harness.secure_kafka import SecureStack, denied, secure_stack
from tests.harness.tokens import token_endpoint
from tests.system.kafka_io.consuming import CLIENTS, POLL_SECONDS, AnyConsumer
from tests.waiting import wait_until

PROTOCOLS = ("SSL", "SCRAM", "PLAIN", "OAUTHBEARER")


@pytest.fixture(scope="module")
def secure() -> Iterator[SecureStack]:
    """Yields a running secure broker."""
    with secure_stack(stacks.FOLDER / f"{os.getpid()}-secure") as stack:
        yield stack


@pytest.fixture(scope="module")
def token_url() -> Iterator[str]:
    """Yields the URL of an endpoint of tokens."""
    with token_endpoint() as (url, _):
        yield url


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_both_clients_administer_produce_and_consume(
    secure: SecureStack, token_url: str, protocol: str
) -> None:
    access, topic = secure.access(protocol, token_url), f"login-{protocol.lower()}"
    assert find_refusal(access) is None
    with closing(build_kafka_python_admin(access)) as admin:
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": -1}}, wait_for_metadata=True)
    assert topic in build_confluent_admin(access, {}).list_topics(timeout=10).topics
    with closing(build_kafka_python_producer(access, acks="all")) as plain:
        plain.send(topic, b"first").get(10)
    relay: ConfluentProducer[int] = ConfluentProducer(access)
    relay.send(1, OutgoingRecord(topic, "key", b"second", {}))
    answers: list[Any] = []

    def answered() -> bool:
        answers.extend(relay.poll(0.1))
        return bool(answers)

    wait_until(answered, timeout_seconds=30, what="the relay's answer")
    relay.close()
    assert answers == [(1, Delivery.ACKNOWLEDGED, "")]
    for client in CLIENTS:
        assert read_values(client, access, topic) == [b"first", b"second"]


def read_values(client: type[AnyConsumer], access: KafkaAccess, topic: str) -> list[bytes]:
    """Returns the first two values of the topic, as the bridge's consumer reads them."""
    place: Place = (topic, 0)
    values: list[bytes] = []
    group = f"{topic}-{client.__name__}"
    with closing(client(access, group=group, instance=None, topics=[topic], share=WHOLE)) as consumer:

        def read() -> bool:
            polled = consumer.poll(POLL_SECONDS)
            if place in consumer.take_changes() and place in consumer.assignment():
                consumer.seek(place, 0)
            elif place in polled:
                values.extend(bytes(record.value or b"") for record in polled[place])
            return len(values) >= 2

        wait_until(read, timeout_seconds=30, what=f"{client.__name__} reads two records")
    return values


def changed(access: KafkaAccess, **fields: object) -> KafkaAccess:
    """Returns the access with other settings."""
    named = {f"kafka_{name}": value for name, value in fields.items()}
    return KafkaAccess(access.bootstrap_servers, access.security.model_copy(update=named))


def test_a_refusal_of_the_broker_names_the_setting(
    secure: SecureStack, token_url: str, tmp_path: Path
) -> None:
    make_authority(tmp_path)
    scram, plain = secure.access("SCRAM"), secure.access("PLAIN")
    no_login: dict[str, object] = {"sasl_mechanism": None}
    by_token = secure.access("OAUTHBEARER", token_url)
    cases: Sequence[tuple[KafkaAccess, str]] = (
        (changed(scram, password=SecretStr("wrong")), "username"),
        (changed(plain, username="stranger"), "username"),
        (changed(scram, ca_file=str(tmp_path / "ca.pem")), "ca_file"),
        (changed(scram, sasl_mechanism="PLAIN"), "sasl_mechanism"),
        (KafkaAccess(scram.bootstrap_servers, PLAINTEXT), "security_protocol"),
        (changed(scram, security_protocol="SSL", **no_login), "security_protocol"),
        (changed(secure.access("SSL"), certificate_file="", key_file=""), "certificate_file"),
        (changed(by_token, oauth_client_secret=SecretStr("wrong")), "oauth_token_url"),
    )
    for access, name in cases:
        refusal = find_refusal(access)
        assert refusal is not None, name
        assert refusal.startswith(setting(name)), refusal
        assert "wrong" not in refusal


@pytest.mark.parametrize("protocol", ["SCRAM", "OAUTHBEARER"])
def test_the_relay_s_producer_answers_with_the_reason_of_a_refused_login(
    secure: SecureStack, token_url: str, protocol: str
) -> None:
    secret = SecretStr("wrong")
    access = changed(secure.access(protocol, token_url), password=secret, oauth_client_secret=secret)
    relay: ConfluentProducer[int] = ConfluentProducer(access)
    relay.send(1, OutgoingRecord("nothing", "key", b"value", {}))
    answers: list[Any] = []

    def answered() -> bool:
        answers.extend(relay.poll(0.1))
        return bool(answers)

    wait_until(answered, timeout_seconds=30, what="the relay's answer")
    relay.close()
    [(row, delivery, text)] = answers
    assert (row, delivery) == (1, Delivery.AWAY)
    assert text.startswith(setting("username" if protocol == "SCRAM" else "oauth_token_url"))


@contextmanager
def tls_listener(folder: Path) -> Iterator[str]:
    """Yields the address of a listener with the certificate `broker` of the folder."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "broker.pem", folder / "broker.key")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            connection, _ = server.accept()
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)


@pytest.mark.parametrize(
    ("hosts", "valid_days", "named"),
    [(["IP:127.0.0.1"], -1, "has expired"), (["DNS:elsewhere"], 1, setting("bootstrap_servers"))],
)
def test_an_expired_certificate_and_a_wrong_host_name_are_named(
    tmp_path: Path, hosts: list[str], valid_days: int, named: str
) -> None:
    make_authority(tmp_path)
    issue(tmp_path, "broker", hosts, valid_days=valid_days)
    security = PLAINTEXT.model_copy(
        update={"kafka_security_protocol": "SSL", "kafka_ca_file": str(tmp_path / "ca.pem")}
    )
    with tls_listener(tmp_path) as server:
        refusal = find_refusal(KafkaAccess(server, security))
    assert refusal is not None
    assert named in refusal


def test_a_missing_right_to_the_group_and_to_a_topic_is_named(secure: SecureStack) -> None:
    admin, access = secure.kafka_admin_access(), secure.access("PLAIN")
    with closing(build_kafka_python_admin(admin)) as client:
        client.create_topics(
            {"rights-read": {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True
        )
    assert find_group_refusal(access, "rights-group") is None
    assert read_missing_rights(access, ["rights-read"], ["rights-read"]) == {}
    with (
        denied(admin, ResourceType.GROUP, "rights-group", AclOperation.ALL),
        denied(admin, ResourceType.TOPIC, "rights-read", AclOperation.WRITE),
    ):
        refusal = find_group_refusal(access, "rights-group")
        assert refusal is not None
        assert refusal.startswith("Kafka refuses the consumer group rights-group to sluice;")
        assert refusal.endswith("; grant Read and Describe on the group")
        assert read_missing_rights(access, ["rights-read"], ["rights-read"]) == {"rights-read": ["WRITE"]}
    with denied(admin, ResourceType.GROUP, "rights-group", AclOperation.READ):
        refusal = find_group_refusal(access, "rights-group")
        assert refusal is not None
        assert refusal.endswith("to sluice; grant Read on the group")
    assert find_group_refusal(access, "rights-group") is None


def test_init_names_the_topics_that_it_may_not_describe(secure: SecureStack) -> None:
    access, registry = secure.access("PLAIN"), collect_handlers("examples.shop.handlers")
    made = create_topics(access, registry, 1, 1)
    assert set(made) == registry.topics.keys() | registry.outgoing_topics

    def refusal() -> str:
        try:
            return ", ".join(create_topics(access, registry, 1, 1))
        except InstallationRefused as refused:
            return str(refused)

    named = "refuses to describe the topics orders to sluice; grant Describe"
    # A broker applies a change of the rights a moment later.
    with denied(secure.kafka_admin_access(), ResourceType.TOPIC, "orders", AclOperation.DESCRIBE):
        wait_until(lambda: named in refusal(), timeout_seconds=30, what="the topic is named")
    wait_until(lambda: not refusal(), timeout_seconds=30, what="init works again")


def test_a_broker_that_is_away_refuses_nothing() -> None:
    assert find_refusal(KafkaAccess("127.0.0.1:1")) is None
