"""A Kafka broker with TLS, a login and an authorizer, and the settings that reach it."""

import ssl
from collections.abc import Mapping
from pathlib import Path

from sluice.runtime.kafka_access import KafkaSecurity
from sluice.stack.kafka_broker import ANSWER_TIMEOUT_SECONDS, KafkaBroker, server_properties
from sluice.stack.kafka_metadata import lists_itself
from sluice.stack.ports import LOOPBACK
from sluice.stack.secure_files import ADMINISTRATOR, authority_file, read_password
from sluice.stack.service import Place, Report

USER = "sluice"
"""The user of Sluice's processes. It has only the rights that an administrator gives it."""
MECHANISM = "SCRAM-SHA-512"
KEY_STORE = "broker-store.pem"


def secure_properties(*, ports: Mapping[str, int], key_store: Path, trust_store: Path, data: Path) -> str:
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
        "ssl.keystore.location": key_store,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": trust_store,
        "listener.name.ssl.ssl.client.auth": "required",
        "listener.name.controller.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": MECHANISM,
        f"listener.name.sasl_ssl.{MECHANISM.lower()}.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:CN=broker;User:CN={ADMINISTRATOR}",
    }
    kept = [line for line in base.splitlines() if line.partition("=")[0] not in settings]
    return "\n".join([*kept, *(f"{name}={value}" for name, value in settings.items())]) + "\n"


class SecureKafkaBroker(KafkaBroker):
    """One broker with TLS, SCRAM and an authorizer. `tls` is the folder of the stack's secure files."""

    port_names: tuple[str, ...] = ("broker", "controller", "certificates")

    def __init__(self, cache: Path, tls: Path) -> None:
        super().__init__(cache)
        self._tls = tls

    def prepare(self, place: Place, report: Report) -> None:
        store = place.home / KEY_STORE
        store.touch(mode=0o600)
        store.write_text((self._tls / "broker.key").read_text() + (self._tls / "broker.pem").read_text())
        super().prepare(place, report)

    def answers(self, place: Place) -> bool:
        try:
            context = ssl.create_default_context(cafile=authority_file(self._tls))
            context.load_cert_chain(self._tls / f"{ADMINISTRATOR}.pem", self._tls / f"{ADMINISTRATOR}.key")
        except OSError:
            return False
        port = place.ports["certificates"]
        return lists_itself(LOOPBACK, port, timeout_seconds=ANSWER_TIMEOUT_SECONDS, tls=context)

    def _properties(self, place: Place, data: Path) -> str:
        return secure_properties(
            ports=place.ports,
            key_store=place.home / KEY_STORE,
            trust_store=authority_file(self._tls),
            data=data,
        )

    def _format_options(self, _: Place) -> tuple[str, ...]:
        password = read_password(self._tls, "kafka")
        return ("--add-scram", f"{MECHANISM}=[name={USER},password={password}]")


def user_security(tls: Path) -> KafkaSecurity:
    """Returns how Sluice's processes log in."""
    return KafkaSecurity.model_validate(
        {
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_mechanism": MECHANISM,
            "kafka_username": USER,
            "kafka_password": read_password(tls, "kafka"),
            "kafka_ca_file": str(authority_file(tls)),
        }
    )


def admin_security(tls: Path) -> KafkaSecurity:
    """Returns how an administrator, who may do everything, logs in at the listener `certificates`."""
    return KafkaSecurity.model_validate(
        {
            "kafka_security_protocol": "SSL",
            "kafka_ca_file": str(authority_file(tls)),
            "kafka_certificate_file": str(tls / f"{ADMINISTRATOR}.pem"),
            "kafka_key_file": str(tls / f"{ADMINISTRATOR}.key"),
        }
    )
