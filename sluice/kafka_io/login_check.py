"""Finds why the brokers refuse this client, and names the setting.

No client names the cause by itself: kafka-python reports only a time-out, and librdkafka does not distinguish
an unknown authority, a wrong host name and an expired certificate.
"""

import socket
import ssl
import struct
import time
from contextlib import closing, suppress

from sluice.kafka_io.access_files import read_current
from sluice.kafka_io.config import ANY_TOPIC, LOG_LEVEL_CRITICAL, build_confluent_admin
from sluice.runtime.kafka_access import KafkaAccess, setting

CONNECT_SECONDS = 2.0
DEFAULT_PORT = "9092"  # as in both clients
LOGIN_SECONDS = 6.0  # on a busy machine, a login with TLS and SCRAM takes seconds
POLL_SECONDS, LONGEST_POLL_SECONDS = 0.1, 1.0
EXPIRED = "the certificate of "
# Codes of OpenSSL (X509_V_ERR_…).
_EXPIRED, _HOST, _ADDRESS = 10, 62, 64
# int32 length, int16 API key (ApiVersions), int16 version, int32 correlation id, no client id.
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 0, -1)


def find_refusal(access: KafkaAccess) -> str | None:
    """Returns one sentence on why the brokers refuse this client; None if they accept it or are away.

    Takes at most a few seconds. Raises SettingsError.
    """
    access = read_current(access)
    for server in access.bootstrap_servers.split(","):
        host, port = split_address(server)
        with suppress(OSError):
            with socket.create_connection((host, port), CONNECT_SECONDS) as connection:
                refusal = _try_listener(access, connection, host, server)
            return refusal or _try_login(access, server)
    return None


def split_address(server: str) -> tuple[str, int]:
    """Returns host and port of a bootstrap server. Without a port, it is that of Kafka. Pure."""
    host, _, port = server.strip().rpartition(":")
    if not host or not port.isdecimal():
        host, port = server.strip(), DEFAULT_PORT
    return host.strip("[]"), int(port)


def read_sentence(text: str) -> str | None:
    """Returns the sentence of `find_refusal` in an error's text; None if the text contains none."""
    found = [text.index(start) for start in ("SLUICE_KAFKA_", EXPIRED) if start in text]
    return text[min(found) :] if found else None


def find_group_refusal(access: KafkaAccess, group: str) -> str | None:
    """Returns one sentence if this user lacks a right to the group; None if it has both, or Kafka is away."""
    # Imported here, because most processes use no group.
    from sluice.kafka_io.group_metadata import GroupMetadataReader, GroupMetadataUnavailable

    try:
        with closing(GroupMetadataReader(access, group)) as reader:
            reader.read()
            missing = "" if reader.may_read() else "Read"
    except GroupMetadataUnavailable as error:
        missing = "Read and Describe" if "GroupAuthorizationFailed" in str(error) else ""
    if not missing:
        return None
    user = access.security.kafka_username or "the user of this process"
    return f"Kafka refuses the consumer group {group} to {user}; grant {missing} on the group"


def _try_listener(access: KafkaAccess, plain: socket.socket, host: str, server: str) -> str | None:
    chosen = access.security
    protocol = f"{setting('security_protocol')}: {server} does not accept {chosen.kafka_security_protocol}"
    try:
        if not chosen.kafka_security_protocol.endswith("SSL"):
            return None if _answers(plain) else f"{protocol}; it probably expects TLS"
        context = ssl.create_default_context(cafile=chosen.kafka_ca_file or None)
        if chosen.kafka_certificate_file:
            context.load_cert_chain(
                chosen.kafka_certificate_file,
                chosen.kafka_key_file,
                chosen.kafka_key_password.get_secret_value,
            )
        with context.wrap_socket(plain, server_hostname=host) as connection:
            # With TLS 1.3, the broker refuses the client's certificate after the handshake.
            return None if _answers(connection) else protocol
    except ssl.SSLCertVerificationError as error:
        return _judge_certificate(error, server)
    except ssl.SSLError as error:
        if "ALERT" in (error.reason or ""):
            needs = f"{setting('certificate_file')}: {server} requires a certificate that it accepts"
            return f"{needs} ({error.reason})"
        return f"{protocol}: {error.reason}"
    except ConnectionError:
        return protocol


def _answers(connection: socket.socket) -> bool:
    connection.settimeout(CONNECT_SECONDS)
    connection.sendall(_API_VERSIONS)
    try:
        head = connection.recv(8)
    except TimeoutError:
        return True  # the broker is slow, which is no refusal
    # A broker answers with the same correlation id. A listener with TLS answers with an alert or closes.
    return head[4:8] == b"\0\0\0\0" and len(head) == 8


def _judge_certificate(error: ssl.SSLCertVerificationError, server: str) -> str:
    if error.verify_code == _EXPIRED:
        return f"{EXPIRED}{server} has expired; renew it at the broker"
    if error.verify_code in (_HOST, _ADDRESS):
        return (
            f"{setting('bootstrap_servers')}: the certificate of {server} is for another host name"
            f" ({error.verify_message})"
        )
    return (
        f"{setting('ca_file')}: none of its authorities has signed the certificate of {server}"
        f" ({error.verify_message})"
    )


def _try_login(access: KafkaAccess, server: str) -> str | None:
    from confluent_kafka import KafkaError, KafkaException

    seen: list[KafkaError] = []
    try:
        admin = build_confluent_admin(access, {"error_cb": seen.append, "log_level": LOG_LEVEL_CRITICAL})
    except KafkaException as failed:
        return str(failed.args[0].str())
    deadline, poll_seconds = time.monotonic() + LOGIN_SECONDS, POLL_SECONDS
    while time.monotonic() < deadline:
        with suppress(KafkaException):
            # Any topic will do, because a list of all topics may be long.
            admin.list_topics(topic=ANY_TOPIC, timeout=poll_seconds)
            return None
        # A distant broker may need longer for an answer.
        poll_seconds = min(2 * poll_seconds, LONGEST_POLL_SECONDS)
        admin.poll(0)
        for error in seen:
            if error.code() == KafkaError._AUTHENTICATION:
                return judge_login(access, server, error.str())
    if seen and access.security.kafka_sasl_mechanism is None:
        protocol = f"{setting('security_protocol')}: {server} closes the connections of"
        return f"{protocol} {access.security.kafka_security_protocol}; it probably expects a login (SASL)"
    return None


def judge_login(access: KafkaAccess, server: str, text: str) -> str:
    """Returns one sentence for the text of librdkafka's error _AUTHENTICATION. Pure."""
    mechanism = access.security.kafka_sasl_mechanism
    _, found, supported = text.partition("supported mechanisms: ")
    if found:
        return f"{setting('sasl_mechanism')}: {server} accepts {supported.partition(' (after')[0]}"
    if mechanism not in ("OAUTHBEARER", "AWS_MSK_IAM"):
        names = f"{setting('username')}, {setting('password')}"
        return f"{names}: {server} refuses this user and password for {mechanism}"
    if "SLUICE_" in text:
        return text[text.index("SLUICE_") :]
    source = "token_provider" if access.security.kafka_token_provider else "oauth_token_url"
    name = setting("sasl_mechanism" if mechanism == "AWS_MSK_IAM" else source)
    return f"{name}: {server} refuses the token: {text.partition(': ')[2] or text}"
