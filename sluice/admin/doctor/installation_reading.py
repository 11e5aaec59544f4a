"""Reads, for `sluice doctor`, whether other databases or processes work as this installation."""

from contextlib import closing, suppress

from kafka.errors import KafkaError
from psycopg2.errors import FeatureNotSupported, InsufficientPrivilege

from sluice.admin.doctor.facts import ForeignClaim
from sluice.kafka_io.config import (
    BOOTSTRAP_TIMEOUT_MS,
    REQUEST_TIMEOUT_MS,
    build_kafka_python_admin,
)
from sluice.runtime.installation import Installation
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.settings import Settings
from sluice.tasks.installation.claim_reader import ClaimReader


def read_foreign_claims(
    settings: Settings, installation: Installation, *, with_kafka: bool
) -> list[ForeignClaim]:
    """Returns the newest claim of each writer that is not in this database.

    Without `with_kafka`, reads Redis only: a Kafka that does not answer would delay the report.
    Returns nothing if the role may not read the key. Also returns nothing on a standby, because the
    claims are not there. Raises RedisError and psycopg2.Error.
    """
    claims = ClaimReader(settings, installation, may_be_read_only=True)
    with closing(claims) as reader, suppress(InsufficientPrivilege, FeatureNotSupported):
        look = reader.look(with_kafka=with_kafka)
        newest = {claim.writer: claim for claim in sorted(look.foreign, key=lambda one: one.written_at)}
        return [
            ForeignClaim(str(claim.writer), claim.rank, max(0, look.known.now - claim.written_at))
            for claim in newest.values()
        ]
    return []


def read_members(access: KafkaAccess, group: str) -> list[str | None] | None:
    """Returns the static names of the group's members, None if Kafka does not return them.

    A group that does not exist has no members.
    """
    try:
        admin = build_kafka_python_admin(
            access,
            bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        with closing(admin):
            described = admin.describe_groups([group])[group]
    except KafkaError:
        # Problems of Kafka itself are found when the topics are read.
        return None
    if described["error"] is not None:
        return None
    return [member["group_instance_id"] for member in described["members"]]
