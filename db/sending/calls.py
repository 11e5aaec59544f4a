"""The ledger while calls are made: claims, answers, and expired claims.

Each call has one row; `tasks/effects/call_states.py` describes its states.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sluice.db.advisory_locks import LockPurpose, lock_text
from sluice.db.connection import Session, Statement
from sluice.db.records import CallState
from sluice.db.values import text_array

EFFECTS_PAUSED = "effects paused"
"""The switch that stops all calls."""


class CallRow(NamedTuple):
    """One call. `now` is the time of Postgres when the call was read. `args` is JSON text."""

    effect_key: str
    id: int
    effect: str
    identity: UUID
    entity: str
    entity_key: str | None
    args: str | None
    explicit_once: bool
    state: str
    attempt: int
    """A different number for each attempt. It distinguishes a late answer from the current answer."""
    tried: int
    """The number of attempts since the last release. Attempts that ended with a retry_after do not count."""
    ended_unknown: bool
    first_attempt_at: datetime | None
    claimed_until: datetime | None
    due_at: datetime
    now: datetime
    format: int


_COLUMNS = """effect_key, id, effect, identity, entity, entity_key, args::text, explicit_once, state, attempt,
    tried, ended_unknown, first_attempt_at, claimed_until, due_at, now(),
    format"""

# Conditions under which another call `b` of the same entity and effect must end before a call `e`. $2: the
# effects that hold back later calls. OFFSET 0 excludes a join, which would read the whole index.
_SAME_ORDER = "b.entity = e.entity AND b.entity_key = e.entity_key AND b.effect = e.effect"
BEHIND_RUNNING = f"""
    EXISTS (
        SELECT FROM sluice.executed_side_effects b
        WHERE {_SAME_ORDER} AND b.state = 'running' AND b.id <> e.id OFFSET 0
    )
"""
BEHIND_EARLIER = f"""
    EXISTS (
        SELECT FROM sluice.executed_side_effects b
        WHERE {_SAME_ORDER} AND b.state <> 'succeeded' AND b.id < e.id
          AND (b.state = 'pending' OR b.effect = ANY ($2)) OFFSET 0
    )
"""
ARE_PAUSED = f"EXISTS (SELECT FROM sluice.switches WHERE name = '{EFFECTS_PAUSED}')"

LOCK_CALL = Statement(
    "lock_call",
    f"SELECT {_COLUMNS} FROM sluice.executed_side_effects WHERE effect_key = $1 FOR UPDATE",
    ("text",),
)


def lock_call(session: Session, effect_key: str) -> CallRow | None:
    """Locks a call until the transaction ends, and returns it. None if no call has this key."""
    rows = session.run(LOCK_CALL, effect_key)
    return CallRow(*rows[0]) if rows else None


# A separate statement takes the lock, because the snapshot of the locking statement is older than the lock.
LOCK_ORDER = Statement(
    "lock_order",
    f"SELECT pg_advisory_xact_lock(hashtext({lock_text(LockPurpose.CALL)}), hashtext($1))",
    ("text",),
)
IS_CALL_HELD = Statement(
    "is_call_held",
    f"""
    SELECT {BEHIND_RUNNING} OR {BEHIND_EARLIER}, {ARE_PAUSED}
    FROM sluice.executed_side_effects e WHERE e.effect_key = $1
    """,
    ("text", "text[]"),
)


def lock_order(session: Session, call: CallRow, holding: Iterable[str]) -> tuple[bool, bool]:
    """Prevents other sessions from beginning a call of this entity and effect until the transaction ends.

    Returns two flags: True if another call must end first, and True if all calls are paused.
    """
    if call.entity_key is not None:
        session.run(LOCK_ORDER, f"{call.entity} {call.effect} {call.entity_key}")
    ((behind, paused),) = session.run(IS_CALL_HELD, call.effect_key, text_array(holding))
    return bool(behind), bool(paused)


# The statements below find a call by its key. The state is a parameter: with a literal, the planner may use a
# partial index of the state, and pass the entries of all calls that ended since an old snapshot began.
RETURN_CALL = Statement(
    "return_call",
    """
    UPDATE sluice.executed_side_effects SET dispatched_at = dispatched_at - make_interval(secs => $2)
    WHERE effect_key = $1 AND state = $3
    """,
    ("text", "float8", "text"),
)


def return_call(session: Session, effect_key: str, earlier_seconds: float) -> None:
    """Makes the call due for its next dispatch `earlier_seconds` earlier. Requires the call's lock."""
    session.run(RETURN_CALL, effect_key, earlier_seconds, CallState.PENDING)


LARGEST_ATTEMPT = 32_767
"""After this number, attempts begin at 1 again. With one attempt per second, that takes nine hours."""

BEGIN_ATTEMPT = Statement(
    "begin_attempt",
    f"""
    UPDATE sluice.executed_side_effects
    SET state = 'running', attempt = attempt % {LARGEST_ATTEMPT} + 1, tried = tried + 1, error = NULL,
        claimed_until = now() + make_interval(secs => $2),
        first_attempt_at = coalesce(first_attempt_at, now())
    WHERE effect_key = $1 AND state = $3
    """,
    ("text", "float8", "text"),
)


def begin_attempt(session: Session, effect_key: str, claim_seconds: float) -> None:
    """Sets a pending call to running. Requires the call's lock. Not idempotent."""
    session.run(BEGIN_ATTEMPT, effect_key, claim_seconds, CallState.PENDING)


# A success is a fact about the key. Any process may store it, at any time and in any state of the call.
STORE_SUCCESS = Statement(
    "store_success",
    """
    UPDATE sluice.executed_side_effects
    SET state = $3, response = $2::jsonb, error = NULL, claimed_until = NULL, settled_at = now()
    WHERE effect_key = $1 AND state <> $3
    """,
    ("text", "text", "text"),
)


def store_success(session: Session, effect_key: str, response: str) -> bool:
    """Sets a call to succeeded. `response` is JSON text. Idempotent. Returns True if the state changed."""
    return session.count(STORE_SUCCESS, effect_key, response, CallState.SUCCEEDED) == 1


STORE_FAILURE = Statement(
    "store_failure",
    """
    UPDATE sluice.executed_side_effects
    SET state = $3, error = $4, ended_unknown = ended_unknown OR $5, claimed_until = NULL,
        tried = tried - CASE WHEN $8 THEN 0 ELSE 1 END,
        -- The lifetime of the key begins when an attempt may have reached the provider.
        first_attempt_at = CASE WHEN $3 <> 'pending' OR ended_unknown OR $5 THEN first_attempt_at END,
        dispatched_at = NULL, due_at = now() + make_interval(secs => $6),
        settled_at = CASE $3 WHEN 'pending' THEN NULL ELSE now() END
    WHERE effect_key = $1 AND attempt = $2 AND state = $7
    """,
    ("text", "int", "text", "text", "bool", "float8", "text", "bool"),
)


def store_failure(
    session: Session,
    effect_key: str,
    attempt: int,
    *,
    from_state: str,
    state: CallState,
    error: str,
    ended_unknown: bool,
    due_in_seconds: float,
    counts: bool,
) -> bool:
    """Sets a call from `from_state` to pending, failed or uncertain. Returns True if the state changed.

    The result of an older attempt, or of an attempt whose claim has expired, changes nothing.
    """
    values = (effect_key, attempt, state, error, ended_unknown, due_in_seconds, from_state, counts)
    return session.count(STORE_FAILURE, *values) == 1


LOCK_EXPIRED = Statement(
    "lock_expired",
    f"""
    SELECT {_COLUMNS} FROM sluice.executed_side_effects
    WHERE state = 'running' AND claimed_until < now() AND effect = ANY ($2) AND format <= $3
    ORDER BY claimed_until LIMIT $1 FOR UPDATE SKIP LOCKED
    """,
    ("int", "text[]", "int"),
)


def lock_expired(
    session: Session, limit: int, effects: Iterable[str], *, newest_format: int
) -> list[CallRow]:
    """Locks and returns calls of these effects whose claim expired without an answer, oldest first.

    Skips rows of a newer format.
    """
    rows = session.run(LOCK_EXPIRED, limit, text_array(effects), newest_format)
    return [CallRow(*row) for row in rows]
