"""What an operator does to dead letters that hold nothing up: marks conflicts as seen, gives up keyless ones.

Neither needs the lock of the queue: nothing waits behind such a letter, and a redrive locks its row.
"""

from collections.abc import Sequence

from db.arrays import bare_array
from db.session import Session, Statement

RESOLVE_CONFLICTS = Statement(
    "resolve_conflicts",
    """
    UPDATE sluice.dead_letters SET state = 'done', settled_at = now()
    WHERE id = ANY ($1) AND state = 'dead' AND outcome = 'conflict'
    RETURNING id
    """,
    ("bigint[]",),
)


def resolve_conflicts(session: Session, ids: Sequence[int]) -> set[int]:
    """Conflicts are marked as seen; the ids of those it happened to. May run twice: then to none."""
    return {number for (number,) in session.run(RESOLVE_CONFLICTS, bare_array(ids))}


DROP_KEYLESS = Statement(
    "drop_keyless",
    """
    UPDATE sluice.dead_letters SET state = 'dropped', settled_at = now()
    WHERE id = $1 AND state = 'dead' AND outcome = 'dead' AND entity_key IS NULL
    """,
    ("bigint",),
)


def drop_keyless(session: Session, letter_id: int) -> bool:
    """A dead letter without an entity is given up; whether it was there to be. May run twice."""
    return session.count(DROP_KEYLESS, letter_id) == 1
