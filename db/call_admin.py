"""What an operator does to calls: releases them again, or says by hand how they ended.

Each is one guarded UPDATE. A worker may store an answer at any moment: the row's lock puts one behind the
other, and the one that comes second judges the row as the first one left it.
"""

from collections.abc import Sequence

from db.arrays import bare_array, text_array
from db.call_listing import ListedCall, WholeCall
from db.session import Session, Statement

# `attempt` stays: it tells the answer of an attempt begun before from that of the next one. The same attempt
# must be there as was read: what somebody found out is said of that one.
RELEASE_CALLS = Statement(
    "release_calls",
    """
    UPDATE sluice.executed_side_effects e
    SET state = 'pending', tried = 0, ended_unknown = false, first_attempt_at = NULL, lease_until = NULL,
        due_at = now(), dispatched_at = NULL, settled_at = NULL
    FROM unnest($1, $2, $3) AS d (effect_key, state, attempt)
    WHERE e.effect_key = d.effect_key AND e.state = d.state AND e.attempt = d.attempt
      AND e.state IN ('failed', 'uncertain')
    RETURNING e.effect_key
    """,
    ("text[]", "text[]", "int[]"),
)


def release_calls(session: Session, calls: Sequence[ListedCall | WholeCall]) -> set[str]:
    """failed or uncertain → pending, due now, as if never tried; the keys of those it happened to.

    Not to one that has moved since it was read. May run twice: the second time to none.
    """
    rows = session.run(
        RELEASE_CALLS,
        text_array(call.effect_key for call in calls),
        text_array(call.state for call in calls),
        bare_array(call.attempt for call in calls),
    )
    return {key for (key,) in rows}


SETTLE_CALL = Statement(
    "settle_call",
    """
    UPDATE sluice.executed_side_effects
    SET state = $3, response = $4::jsonb, error = $5, lease_until = NULL, settled_at = now()
    WHERE effect_key = $1 AND attempt = $2 AND state = 'uncertain'
    """,
    ("text", "int", "text", "text", "text"),
)


def settle_call(
    session: Session, call: WholeCall, *, state: str, response: str | None, error: str | None
) -> bool:
    """uncertain → succeeded or failed; whether it was still as it was read. `response` is JSON text."""
    return session.count(SETTLE_CALL, call.effect_key, call.attempt, state, response, error) == 1
