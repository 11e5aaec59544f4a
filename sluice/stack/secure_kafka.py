"""A Kafka broker with TLS, a login and an authorizer, and the settings that reach it."""

import secrets
import ssl
from collections.abc import Mapping
from pathlib import Path

from sluice.runtime.kafka_access import KafkaSecurity
from sluice.stack.atomic_folders import made_whole
from sluice.stack.certificates import issue, make_authority
from sluice.stack.kafka_broker import ANSWER_TIMEOUT_SECONDS, KafkaBroker, server_properties
from sluice.stack.kafka_metadata import lists_itself
from sluice.stack.ports import LOOPBACK
from sluice.stack.service import Place, Report, StackError

USER = "sluice"
"""The user of Sluice's processes. It has only the rights that an administrator gives it."""
MECHANISM = "SCRAM-SHA-512"
HOSTS = (f"IP:{LOOPBACK}", "DNS:localhost")


def secure_properties(*, ports: Mapping[str, int], tls: Path, data: Path) -> str:
    """Returns the configuration of a broker whose clients log in.

    Listener SASL_SSL is for users with a password, SSL for the broker itself and for administrators with a
    certificate. Only a resource that an ACL names may be used, except by the superusers.
    """
    base = server_properties(broker_port=ports["broker"], controller_port=ports["controller"], data=data)
    listeners = {
        "SASL_SSL": ports["broker"],
        "SSL": ports["certificates"],
        "CONTROLLER": ports["controller"],
    }
    shown = [f"{name}://{LOOPBACK}:{port}" for name, port in listeners.items()]
    settings = {
        "listeners": ",".join(shown),
        "advertised.listeners": ",".join(shown[:2]),
        "listener.security.protocol.map": "SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:SSL",
        "inter.broker.listener.name": "SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": tls / "broker-store.pem",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": tls / "ca.pem",
        "listener.name.ssl.ssl.client.auth": "required",
        "listener.name.controller.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": MECHANISM,
        f"listener.name.sasl_ssl.{MECHANISM.lower()}.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:CN=broker;User:CN=admin",
    }
    kept = [line for line in base.splitlines() if line.partition("=")[0] not in settings]
    return "\n".join([*kept, *(f"{name}={value}" for name, value in settings.items())]) + "\n"


class SecureKafkaBroker(KafkaBroker):
    """One broker with TLS, SCRAM and an authorizer. Its certificates and password are beside its data."""

    port_names: tuple[str, ...] = ("broker", "controller", "certificates")

    def prepare(self, place: Place, report: Report) -> None:
        if place.data.is_dir() and not tls_folder(place.home).is_dir():
            raise StackError("this stack was started without --secure; use another folder, or wipe it first")
        if not tls_folder(place.home).is_dir():
            report("making the certificates of Kafka")
            with made_whole(tls_folder(place.home)) as part:
                make_certificates(part)
        super().prepare(place, report)

    def answers(self, place: Place) -> bool:
        tls = tls_folder(place.home)
        try:
            context = ssl.create_default_context(cafile=tls / "ca.pem")
            context.load_cert_chain(tls / "admin.pem", tls / "admin.key")
        except OSError:
            return False
        port = place.ports["certificates"]
        return lists_itself(LOOPBACK, port, timeout_seconds=ANSWER_TIMEOUT_SECONDS, tls=context)

    def _properties(self, place: Place, data: Path) -> str:
        return secure_properties(ports=place.ports, tls=tls_folder(place.home), data=data)

    def _format_options(self, place: Place) -> tuple[str, ...]:
        password = read_password(tls_folder(place.home))
        return ("--add-scram", f"{MECHANISM}=[name={USER},password={password}]")


def make_certificates(folder: Path) -> None:
    """Makes an authority, the certificates of the broker and an administrator, and a user's password."""
    make_authority(folder)
    issue(folder, "broker", HOSTS)
    issue(folder, "admin")
    store = folder / "broker-store.pem"
    store.touch(mode=0o600)
    store.write_text((folder / "broker.key").read_text() + (folder / "broker.pem").read_text())
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(24))


def tls_folder(home: Path) -> Path:
    """Returns the folder of the certificates and the password."""
    return home / "tls"


def read_password(tls: Path) -> str:
    """Returns the password of the user."""
    return (tls / "password").read_text()


def user_security(tls: Path) -> KafkaSecurity:
    """Returns how Sluice's processes log in."""
    return KafkaSecurity.model_validate(
        {
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_mechanism": MECHANISM,
            "kafka_username": USER,
            "kafka_password": read_password(tls),
            "kafka_ca_file": str(tls / "ca.pem"),
        }
    )


def admin_security(tls: Path) -> KafkaSecurity:
    """Returns how an administrator, who may do everything, logs in at the listener `certificates`."""
    return KafkaSecurity.model_validate(
        {
            "kafka_security_protocol": "SSL",
            "kafka_ca_file": str(tls / "ca.pem"),
            "kafka_certificate_file": str(tls / "admin.pem"),
            "kafka_key_file": str(tls / "admin.key"),
        }
    )
