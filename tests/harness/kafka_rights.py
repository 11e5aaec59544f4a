"""Denies rights to all users of a broker with an authorizer."""

from typing import Any

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from sluice.kafka_io.config import LOG_LEVEL_CRITICAL
from tests.harness.kafka_cluster import KafkaCluster


def build_admin(cluster: KafkaCluster) -> Any:
    """Returns an admin client of librdkafka that does not log the failures of brokers that a test stops."""
    return AdminClient(
        {"bootstrap.servers": cluster.kafka_bootstrap_servers(), "log_level": LOG_LEVEL_CRITICAL}
    )


class Right:
    """Denies all users one operation on one resource and allows the others. `give_back` ends the denial."""

    def __init__(self, admin: Any, kind: ResourceType, name: str, operation: AclOperation) -> None:
        self._admin = admin
        anyone: Any = None
        self._filter = AclBindingFilter(
            kind, name, ResourcePatternType.LITERAL, anyone, anyone, AclOperation.ANY, AclPermissionType.ANY
        )
        wanted = [
            AclBinding(kind, name, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", which, permission)
            for which, permission in (
                (AclOperation.ALL, AclPermissionType.ALLOW),
                (operation, AclPermissionType.DENY),
            )
        ]
        for future in admin.create_acls(wanted).values():
            future.result()

    def give_back(self) -> None:
        """Allows all operations again."""
        for future in self._admin.delete_acls([self._filter]).values():
            future.result()
