"""Several brokers with TLS, logins and an authorizer."""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sluice.admin.kafka_rights import grant_rights
from sluice.runtime.kafka_access import KafkaAccess
from sluice.stack.kafka_metadata import lists_itself
from sluice.stack.ports import LOOPBACK
from sluice.stack.secure_files import (
    ADMINISTRATOR,
    authority_file,
    make_secure_files,
    read_password,
    secure_folder,
)
from sluice.stack.secure_kafka import (
    KEY_STORE,
    MECHANISM,
    USER,
    admin_security,
    secure_properties,
    user_security,
)
from tests.harness.kafka_cluster import KafkaCluster


class SecureCluster(KafkaCluster):
    """A cluster whose nodes share one certificate. The user of Sluice logs in with a password."""

    port_kinds = ("broker", "controller", "certificates")

    def __init__(self, folder: Path, nodes: int, settings: Mapping[str, str]) -> None:
        self._tls = secure_folder(folder)
        make_secure_files(self._tls)
        key_and_certificate = (self._tls / "broker.key", self._tls / "broker.pem")
        (self._tls / KEY_STORE).write_text("".join(file.read_text() for file in key_and_certificate))
        super().__init__(folder, nodes, settings)

    def kafka_access(self) -> KafkaAccess:
        return KafkaAccess(self.kafka_bootstrap_servers(), user_security(self._tls))

    def kafka_admin_access(self) -> KafkaAccess:
        """Returns how an administrator reaches the brokers."""
        servers = [f"{LOOPBACK}:{self._ports_of(node)['certificates']}" for node in self.nodes]
        return KafkaAccess(",".join(servers), admin_security(self._tls))

    def _base(self, node: int, data: Path) -> str:
        return secure_properties(
            ports=self._ports_of(node),
            key_store=self._tls / KEY_STORE,
            trust_store=authority_file(self._tls),
            data=data,
        )

    def _format_options(self) -> tuple[str, ...]:
        return ("--add-scram", f"{MECHANISM}=[name={USER},password={read_password(self._tls, 'kafka')}]")

    def _answers(self, node: int) -> bool:
        context = ssl.create_default_context(cafile=authority_file(self._tls))
        context.load_cert_chain(self._tls / f"{ADMINISTRATOR}.pem", self._tls / f"{ADMINISTRATOR}.key")
        port = self._ports_of(node)["certificates"]
        return lists_itself(LOOPBACK, port, timeout_seconds=2, tls=context)


@contextmanager
def secure_cluster(folder: Path, nodes: int, settings: Mapping[str, str]) -> Iterator[SecureCluster]:
    """Runs a cluster whose user has the rights that Sluice needs. Ends all its processes afterwards."""
    cluster = SecureCluster(folder, nodes, settings)
    try:
        cluster.start()
        grant_rights(cluster.kafka_admin_access(), USER)
        yield cluster
    finally:
        cluster.close()
