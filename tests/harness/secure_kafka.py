"""A broker with a listener per protocol, for tests of the login."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from sluice.admin.kafka_rights import Resource, Right, grant_rights
from sluice.kafka_io.config import build_confluent_admin
from sluice.runtime.kafka_access import KafkaAccess, setting
from sluice.runtime.settings import read_kafka_security
from sluice.stack import Stack
from sluice.stack.certificates import issue, make_authority
from sluice.stack.kafka_broker import NODE_ID
from sluice.stack.kafka_jars import cache_folder
from sluice.stack.ports import LOOPBACK
from sluice.stack.runner import Runner
from sluice.stack.secure_files import HOSTS, authority_file, read_password, secure_folder
from sluice.stack.secure_kafka import KEY_STORE, USER, SecureKafkaBroker
from sluice.stack.service import Place, ServiceName

CLIENT = "client"
"""The name in the certificate of a client, whose user is CN=client."""
SCRAM_ITERATIONS = 4_096
CHANGED_PASSWORD = "changed"
ANSWER_SECONDS = 30
_MODULES = "org.apache.kafka.common.security"


class ManyListenersBroker(SecureKafkaBroker):
    """Also accepts PLAIN and OAUTHBEARER, without TLS.

    With `login_seconds`, each login is valid for this time, as with many managed brokers. A client must log
    in again before, or its connection is closed.
    """

    port_names = (*SecureKafkaBroker.port_names, "plain")

    def __init__(self, cache: Path, tls: Path, login_seconds: float | None) -> None:
        super().__init__(cache, tls)
        self._login_seconds = login_seconds

    def _properties(self, place: Place, data: Path) -> str:
        made = dict(line.split("=", 1) for line in super()._properties(place, data).splitlines())
        listener = f",SASL_PLAINTEXT://{LOOPBACK}:{place.ports['plain']}"
        password = read_password(self._tls, "kafka")
        prefix = "listener.name.sasl_plaintext"
        added = {
            "listeners": made["listeners"] + listener,
            "advertised.listeners": made["advertised.listeners"] + listener,
            "listener.security.protocol.map": made["listener.security.protocol.map"]
            + ",SASL_PLAINTEXT:SASL_PLAINTEXT",
            f"{prefix}.sasl.enabled.mechanisms": "PLAIN,OAUTHBEARER",
            f"{prefix}.plain.sasl.jaas.config": (
                f'{_MODULES}.plain.PlainLoginModule required user_{USER}="{password}";'
            ),
            f"{prefix}.oauthbearer.sasl.jaas.config": (
                f'{_MODULES}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="x";'
            ),
        }
        if self._login_seconds is not None:
            added["connections.max.reauth.ms"] = str(int(self._login_seconds * 1_000))
        return "".join(f"{name}={value}\n" for name, value in (made | added).items())


class SecureStack(Stack):
    """A stack whose broker has a listener per protocol."""

    def __init__(self, root: Path, login_seconds: float | None = None) -> None:
        super().__init__(root, secure=True)
        broker = ManyListenersBroker(cache_folder({}), self._tls, login_seconds)
        self._runners["kafka"] = Runner(broker, self.root / "kafka", self._state, lambda _: None)

    def access(self, protocol: str, token_url: str = "") -> KafkaAccess:
        """Returns how the user reaches the listener, by SSL, SCRAM, PLAIN or OAUTHBEARER."""
        tls, ports = self._tls, self._runners["kafka"].place().ports
        login = {"username": USER, "password": read_password(tls, "kafka")}
        chosen: Mapping[str, str] = {
            "SSL": {
                "security_protocol": "SSL",
                "ca_file": f"{tls}/ca.pem",
                "certificate_file": f"{tls}/{CLIENT}.pem",
                "key_file": f"{tls}/{CLIENT}.key",
            },
            "SCRAM": {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "SCRAM-SHA-512",
                "ca_file": f"{tls}/ca.pem",
                **login,
            },
            "PLAIN": {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", **login},
            "OAUTHBEARER": {
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": "OAUTHBEARER",
                "oauth_token_url": token_url,
                "oauth_client_id": USER,
                "oauth_client_secret": "s3/cret",
            },
        }[protocol]
        port = ports[{"SSL": "certificates", "SCRAM": "broker"}.get(protocol, "plain")]
        security = read_kafka_security({setting(name): value for name, value in chosen.items()})
        return KafkaAccess(f"{LOOPBACK}:{port}", security)

    def kafka_access(self) -> KafkaAccess:
        return self.access("SCRAM")

    def user_may_delete_topics(self) -> None:
        """Gives the user a right that only tests need."""
        grant_rights(self.kafka_admin_access(), USER, [Right(Resource.TOPIC, "DELETE")])

    @contextmanager
    def password_changed(self) -> Iterator[None]:
        """Changes the password of Sluice's user in Kafka inside the block."""
        self.set_password(CHANGED_PASSWORD)
        try:
            yield
        finally:
            self.set_password(read_password(self._tls, "kafka"))

    def set_password(self, password: str) -> None:
        """Changes the password of Sluice's user in Kafka."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS)
        changed = UserScramCredentialUpsertion(USER, info, password.encode())
        admin = build_confluent_admin(self.kafka_admin_access(), {})
        for future in admin.alter_user_scram_credentials([changed]).values():
            future.result(ANSWER_SECONDS)

    @contextmanager
    def certificate_expired(self) -> Iterator[None]:
        """Makes the listener for passwords show an expired certificate inside the block."""
        # A broker accepts only a certificate with the same name as before.
        folder = self._tls / "expired"
        folder.mkdir(exist_ok=True)
        for name in ("ca.pem", "ca.key"):
            shutil.copy(self._tls / name, folder)
        issue(folder, "broker", HOSTS, valid_days=-1)
        with self._certificate_of(folder):
            yield

    @contextmanager
    def authority_changed(self) -> Iterator[Path]:
        """Makes the listener for passwords show a certificate of another authority inside the block.

        Yields the file of this authority.
        """
        folder = self._tls / "other"
        folder.mkdir(exist_ok=True)
        make_authority(folder)
        issue(folder, "broker", HOSTS)
        with self._certificate_of(folder):
            yield authority_file(folder)

    @contextmanager
    def _certificate_of(self, folder: Path) -> Iterator[None]:
        store = folder / KEY_STORE
        store.write_text((folder / "broker.key").read_text() + (folder / "broker.pem").read_text())
        self._show_certificate(store)
        # The clients log in again on their connections, so only a new connection reads the certificate.
        self.stop("kafka")
        self.start("kafka")
        try:
            yield
        finally:
            self._show_certificate(self.root / "kafka" / KEY_STORE)

    def _show_certificate(self, store: Path) -> None:
        name = "listener.name.sasl_ssl.ssl.keystore.location"
        set_it = AlterConfigOpType.SET
        shown = ConfigEntry(name, str(store), incremental_operation=set_it)
        broker = ConfigResource(ConfigResource.Type.BROKER, str(NODE_ID), incremental_configs=[shown])
        admin = build_confluent_admin(self.kafka_admin_access(), {})
        for future in admin.incremental_alter_configs([broker]).values():
            future.result(ANSWER_SECONDS)


@contextmanager
def secure_stack(
    root: Path, *servers: ServiceName, login_seconds: float | None = None
) -> Iterator[SecureStack]:
    """Runs a secure broker whose users have the rights that Sluice needs, and other servers. Ends them
    afterwards.
    """
    stack = SecureStack(root, login_seconds)
    try:
        for server in ("kafka", *servers):
            stack.start(server)
        issue(secure_folder(stack.root), CLIENT)
        for user in (USER, f"CN={CLIENT}"):
            grant_rights(stack.kafka_admin_access(), user)
        yield stack
    finally:
        stack.down(wipe=True)


@contextmanager
def denied(access: KafkaAccess, kind: ResourceType, name: str, operation: AclOperation) -> Iterator[None]:
    """Denies the user of Sluice this operation inside the block."""
    admin = build_confluent_admin(access, {})
    literal, deny = ResourcePatternType.LITERAL, AclPermissionType.DENY
    user = f"User:{USER}"
    for future in admin.create_acls([AclBinding(kind, name, literal, user, "*", operation, deny)]).values():
        future.result(10)
    try:
        yield
    finally:
        for future in admin.delete_acls(
            [AclBindingFilter(kind, name, literal, user, "*", operation, deny)]
        ).values():
            future.result(10)
