"""The rights in Kafka that Sluice's processes need, and their ACLs."""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from sluice.kafka_io.config import LOG_LEVEL_CRITICAL, REQUEST_TIMEOUT_MS, build_confluent_admin
from sluice.runtime.kafka_access import KafkaAccess


class Resource(Enum):
    """The kinds of resources on which Sluice needs rights."""

    TOPIC = "topic"
    GROUP = "group"


class Right(NamedTuple):
    """The right to an operation, under its name in Kafka."""

    resource: Resource
    operation: str


RIGHTS = (
    *(Right(Resource.TOPIC, one) for one in ("DESCRIBE", "DESCRIBE_CONFIGS", "READ", "WRITE", "CREATE")),
    *(Right(Resource.GROUP, one) for one in ("DESCRIBE", "READ")),
)
"""The rights of a user for all processes and commands of one installation. A right to READ or WRITE includes
DESCRIBE, but a command may describe a topic that its user may not read.
"""


def grant_rights(access: KafkaAccess, user: str, rights: Iterable[Right] = RIGHTS, name: str = "*") -> None:
    """Gives the user these rights on all resources, or on the resource `name`. Idempotent.

    Raises KafkaException.
    """
    from confluent_kafka.admin import (  # type: ignore[attr-defined]
        AclBinding,
        AclOperation,
        AclPermissionType,
        ResourcePatternType,
        ResourceType,
    )

    admin = build_confluent_admin(access, {"log_level": LOG_LEVEL_CRITICAL})
    wanted = [
        AclBinding(
            ResourceType[right.resource.name],
            name,
            ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            AclOperation[right.operation],
            AclPermissionType.ALLOW,
        )
        for right in rights
    ]
    for future in admin.create_acls(wanted, request_timeout=REQUEST_TIMEOUT_MS / 1_000).values():
        future.result()
