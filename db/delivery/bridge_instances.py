"""The numbers of the bridges of a group, which are names in the Kafka group."""

from sluice.db.advisory_locks import LockPurpose, lock_text
from sluice.db.connection import Session, Statement

# The numbers are session locks, which end with the process. Therefore a bridge that was killed and restarted
# gets its old number, and with it its old membership in the Kafka group.
TRY_INSTANCE = Statement(
    "try_instance",
    f"SELECT pg_try_advisory_lock(hashtext({lock_text(LockPurpose.BRIDGE, ' ')} || $1), $2)",
    ("text", "int"),
)


def try_instance(session: Session, group: str, instance: int) -> bool:
    """Takes the number if it is free. Returns True if this session holds the number now. Idempotent."""
    ((held,),) = session.run(TRY_INSTANCE, group, instance)
    return bool(held)


def claim_instance(session: Session, group: str) -> int:
    """Takes the lowest number that no other session of the group holds.

    The number is free again when the session ends.
    """
    instance = 0
    while not try_instance(session, group, instance):
        instance += 1
    return instance
