"""Builds every client of Kafka. No other module of production code constructs one.

This module decides how a client reaches the brokers. The caller passes only the options of its own use. A
client library is imported when one of its clients is built. Therefore a process loads only the libraries that
it uses.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sluice.kafka_io.access_files import check_files, read_current
from sluice.kafka_io.tokens import RenewedTokens, TokenUnavailable, build_tokens, is_by_token
from sluice.runtime.kafka_access import KafkaAccess, setting
from sluice.runtime.settings import SettingsError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer
    from confluent_kafka.admin import AdminClient
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

BOOTSTRAP_TIMEOUT_MS = 5_000  # after this time, a command reports that no broker is reachable
DEFAULT_BOOTSTRAP_MS = 10_000  # kafka-python would wait for 30 s
FIRST_BOOTSTRAP_MS = 1_500  # after this time, a client of kafka-python checks if the brokers refuse its login
REQUEST_TIMEOUT_MS = 10_000  # for one request of a command; then the command reports the failure
SOCKET_TIMEOUT_MS = 10_000  # librdkafka's default is a minute, which is too long for a lost broker
RECONNECT_BACKOFF_MAX_MS = 1_000  # the defaults of 10 s and 30 s are longer than a broker's restart

ANY_TOPIC = "__consumer_offsets"  # the topic for which a broker is asked if there is no other

# For the bridge's consumer, with both clients. A broker waits until it has 64 kB, for at most 10 ms. Without
# this wait the broker would answer with single records, which costs 0.4 of a core at 1,000 events per second.
FETCH_MIN_BYTES = 64 * 1024
FETCH_MAX_WAIT_MS = 10
# The most that one poll reads; afterwards the bridge checks its limits again.
FETCH_MAX_BYTES = 8 * 1024 * 1024
MAX_POLL_RECORDS = 5_000
# The shortest time between two polls that return records: fewer and larger polls cost less per record.
GATHER_SECONDS = 0.010
# The shortest that brokers allow by default; a dead bridge is noticed after this time.
SESSION_TIMEOUT_MS = 6_000
HEARTBEAT_INTERVAL_MS = 2_000
MAX_POLL_INTERVAL_MS = 60_000  # longer than each time-out in one turn of the loop
METADATA_MAX_AGE_MS = 30_000  # new partitions and topics are noticed after this time at the latest

# The level "critical" of syslog. With less severe levels, librdkafka would write a line per attempt to
# connect, and not as JSON.
LOG_LEVEL_CRITICAL = 2


def librdkafka_properties(access: KafkaAccess, own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the properties of a confluent-kafka client.

    SLUICE_KAFKA_PROPERTIES changes properties of `own`. Raises ValueError if `own` contains a property that
    this function sets.
    """
    chosen = access.security
    mechanism = "OAUTHBEARER" if is_by_token(access) else chosen.kafka_sasl_mechanism
    made = {
        "bootstrap.servers": access.bootstrap_servers,
        "security.protocol": chosen.kafka_security_protocol,
        "sasl.mechanism": mechanism,
        "sasl.username": chosen.kafka_username,
        "sasl.password": chosen.kafka_password.get_secret_value(),
        "ssl.ca.location": chosen.kafka_ca_file,
        "ssl.certificate.location": chosen.kafka_certificate_file,
        "ssl.key.location": chosen.kafka_key_file,
        "ssl.key.password": chosen.kafka_key_password.get_secret_value(),
    }
    return _merge({name: value for name, value in made.items() if value}, {**own, **access.tuning})


def kafka_python_arguments(access: KafkaAccess, own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a kafka-python client.

    Raises ValueError if `own` contains an argument that this function sets.
    """
    chosen = access.security
    mechanism = "OAUTHBEARER" if is_by_token(access) else chosen.kafka_sasl_mechanism
    made = {
        "bootstrap_servers": access.bootstrap_servers.split(","),
        "security_protocol": chosen.kafka_security_protocol,
        "sasl_mechanism": mechanism,
        "sasl_plain_username": chosen.kafka_username,
        "sasl_plain_password": chosen.kafka_password.get_secret_value(),
        "ssl_cafile": chosen.kafka_ca_file,
        "ssl_certfile": chosen.kafka_certificate_file,
        "ssl_keyfile": chosen.kafka_key_file,
        "ssl_password": chosen.kafka_key_password.get_secret_value(),
    }
    return _merge({name: value for name, value in made.items() if value}, own)


def build_confluent_consumer(access: KafkaAccess, own: Mapping[str, Any]) -> "Consumer":
    """Returns a consumer of confluent-kafka. It connects in the background."""
    from confluent_kafka import Consumer

    made: Consumer = _build_confluent(Consumer, access, own)
    return made


def build_confluent_producer(access: KafkaAccess, own: Mapping[str, Any]) -> "Producer":
    """Returns a producer of confluent-kafka. It connects in the background."""
    from confluent_kafka import Producer

    made: Producer = _build_confluent(Producer, access, own)
    return made


def build_confluent_admin(access: KafkaAccess, own: Mapping[str, Any]) -> "AdminClient":
    """Returns an administration client of confluent-kafka. It connects in the background."""
    from confluent_kafka.admin import AdminClient

    made: AdminClient = _build_confluent(AdminClient, access, own)
    return made


def build_kafka_python_consumer(access: KafkaAccess, **own: Any) -> "KafkaConsumer":
    """Returns a connected consumer of kafka-python. Raises KafkaError if no broker answers."""
    from kafka import KafkaConsumer

    from sluice.kafka_io.header_names import accept_any_header_name

    accept_any_header_name()
    made: KafkaConsumer = _connect(KafkaConsumer, access, own)
    return made


def build_kafka_python_producer(access: KafkaAccess, **own: Any) -> "KafkaProducer":
    """Returns a connected producer of kafka-python. Raises KafkaError if no broker answers."""
    from kafka import KafkaProducer

    made: KafkaProducer = _connect(KafkaProducer, access, own)
    return made


def build_kafka_python_admin(
    access: KafkaAccess, *, finds_refusal: bool = True, **own: Any
) -> "KafkaAdminClient":
    """Returns a connected administration client of kafka-python. Raises KafkaError if no broker answers.

    Without `finds_refusal`, the error does not name the cause of a refused login.
    """
    from kafka import KafkaAdminClient

    made: KafkaAdminClient = _connect(KafkaAdminClient, access, own, finds_refusal=finds_refusal)
    return made


def _build_confluent(client: Any, access: KafkaAccess, own: Mapping[str, Any]) -> Any:
    from confluent_kafka import KafkaError, KafkaException

    access = read_current(access)
    check_files(access)
    properties = librdkafka_properties(access, own)
    if is_by_token(access):
        tokens = RenewedTokens(build_tokens(access))
        try:
            # Without a token, the client would wait for 10 s and then not name the cause.
            tokens()
        except TokenUnavailable as error:
            raise KafkaException(KafkaError(KafkaError._AUTHENTICATION, str(error))) from error
        properties["oauth_cb"] = lambda _: tuple(tokens())
    try:
        return client(properties)
    except KafkaException as error:
        if access.tuning and error.args[0].code() == KafkaError._INVALID_ARG:
            raise SettingsError(f"{setting('properties')}: {error.args[0].str()}") from error
        raise


def _connect(client: Any, access: KafkaAccess, own: Mapping[str, Any], *, finds_refusal: bool = True) -> Any:
    arguments = {"bootstrap_timeout_ms": DEFAULT_BOOTSTRAP_MS, **_arguments(access, own)}
    total_ms = arguments["bootstrap_timeout_ms"]
    if total_ms <= FIRST_BOOTSTRAP_MS or not finds_refusal:
        return _construct(client, arguments)
    from kafka.errors import KafkaConnectionError, KafkaError

    try:
        return _construct(client, {**arguments, "bootstrap_timeout_ms": FIRST_BOOTSTRAP_MS})
    except KafkaError:
        from sluice.kafka_io.login_check import find_refusal

        # kafka-python repeats a refused login until the time-out, and then does not name the cause.
        if refusal := find_refusal(access):
            raise KafkaConnectionError(refusal) from None
    return _construct(client, {**arguments, "bootstrap_timeout_ms": total_ms - FIRST_BOOTSTRAP_MS})


def _arguments(access: KafkaAccess, own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments with what the files of the login contain now. Raises SettingsError."""
    access = read_current(access)
    check_files(access)
    arguments = kafka_python_arguments(access, own)
    if is_by_token(access):
        from sluice.kafka_io.kafka_python_tokens import TokenProvider

        arguments["sasl_oauth_token_provider"] = TokenProvider(build_tokens(access))
    return arguments


def _construct(client: Any, arguments: Mapping[str, Any]) -> Any:
    # kafka-python 3.0.12 starts a thread, and does not end this thread if no broker answers. A process that
    # retries during an outage would accumulate such threads.
    made = client.__new__(client)
    try:
        made.__init__(**arguments)
    except BaseException:
        for name, end in (("_client", "close"), ("_net", "stop")):
            if hasattr(made, name):
                getattr(getattr(made, name), end)()
        raise
    return made


def _merge(access: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    if both := sorted(access.keys() & own.keys()):
        raise ValueError(f"cannot override how a client reaches Kafka: {', '.join(both)}; change KafkaAccess")
    return {**access, **own}
