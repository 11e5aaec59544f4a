"""The ledger while calls are dispatched: the calls that are due, and the calls of a newer format."""

from collections.abc import Iterable

from sluice.db.connection import Session, Statement
from sluice.db.records import CallState
from sluice.db.sending.calls import ARE_PAUSED, BEHIND_EARLIER, BEHIND_RUNNING
from sluice.db.values import text_array

EVER = "-infinity"
LATE_SECONDS = 10
"""A call that becomes visible more than this time after it is due is found by the next complete look."""

# Below the result, the index has only entries of calls that ended. An old snapshot keeps these entries.
READ_DUE_SINCE = Statement(
    "read_due_since",
    f"""
    SELECT least(now() - interval '{LATE_SECONDS} s', min(w.due_at))::text
    FROM unnest($1) AS declared (effect)
    CROSS JOIN LATERAL (
        SELECT e.due_at FROM sluice.executed_side_effects e
        WHERE e.state = 'pending' AND e.effect = declared.effect AND e.due_at >= $2
        ORDER BY e.due_at LIMIT 1
    ) w
    """,
    ("text[]", "timestamptz"),
)


def read_due_since(session: Session, effects: Iterable[str], due_since: str = EVER) -> str:
    """Returns a time before which no call of these effects is due, except calls that become visible late.

    Looks only at calls that are due since `due_since`; by default, at all calls. Times are texts of Postgres.
    """
    ((since,),) = session.run(READ_DUE_SINCE, text_array(effects), due_since)
    return str(since)


DISPATCH_CALLS = Statement(
    "dispatch_calls",
    f"""
    WITH first AS MATERIALIZED (
        -- Reads each effect separately, and so skips undeclared effects, which may have millions of calls.
        -- Only the first call of an entity may begin. This call is checked once, even if many calls wait.
        SELECT w.effect, w.entity, w.entity_key, CASE WHEN w.entity_key IS NULL THEN w.effect_key END alone,
               min(w.id) AS id, count(*) AS calls
        FROM unnest($1) AS declared (effect)
        CROSS JOIN LATERAL (
            SELECT e.effect_key, e.effect, e.entity, e.entity_key, e.id
            FROM sluice.executed_side_effects e
            WHERE e.state = 'pending' AND e.due_at <= now() AND e.effect = declared.effect AND e.format <= $5
              -- A call is dispatched again after a while, because its message may be lost.
              AND (e.dispatched_at IS NULL OR e.dispatched_at < now() - make_interval(secs => $3))
              AND NOT {ARE_PAUSED} AND e.due_at >= $7
            ORDER BY e.due_at, e.id
            LIMIT $6
        ) w
        GROUP BY 1, 2, 3, 4
    ), due AS MATERIALIZED (
        SELECT e.effect_key
        FROM first f JOIN sluice.executed_side_effects e ON e.effect_key = coalesce(f.alone, (
            SELECT k.effect_key FROM sluice.executed_side_effects k
            WHERE k.entity = f.entity AND k.entity_key = f.entity_key AND k.effect = f.effect AND k.id = f.id
              AND k.state <> 'succeeded'
        ))
        -- A parameter, so that the planner finds the call by its key and uses no partial index of the state.
        WHERE e.state = $8 AND NOT {BEHIND_RUNNING} AND NOT {BEHIND_EARLIER}
        ORDER BY e.due_at, e.id
        LIMIT $4
        FOR UPDATE OF e SKIP LOCKED
    ), told AS (
        UPDATE sluice.executed_side_effects e SET dispatched_at = now()
        FROM due WHERE e.effect_key = due.effect_key
        RETURNING e.effect_key, e.effect, e.due_at, e.id
    ), reached AS (
        SELECT coalesce(max(calls), 0) = $6 AS all_of_them
        FROM (SELECT sum(calls) AS calls FROM first GROUP BY effect) c
    )
    SELECT reached.all_of_them, told.effect_key, told.effect FROM reached LEFT JOIN told ON true
    ORDER BY told.due_at, told.id
    """,
    ("text[]", "text[]", "float8", "int", "int", "int", "timestamptz", "text"),
)
LOOKED_AT_PER_CALL = 4  # due calls that are read per requested call, because not all of them may begin


def dispatch_calls(
    session: Session,
    effects: Iterable[str],
    holding: Iterable[str],
    *,
    again_after_seconds: float,
    limit: int,
    newest_format: int,
    due_since: str = EVER,
) -> list[tuple[str, str]]:
    """Marks due calls of these effects as dispatched, oldest first. Returns (effect key, effect).

    Idempotent. Skips rows of a newer format, and calls that were due before `due_since`.
    """
    found: list[tuple[str, str]] = []
    look_at, more = limit * LOOKED_AT_PER_CALL, True
    wanted = (text_array(effects), text_array(holding), again_after_seconds)
    while more and len(found) < limit:
        limits = limit - len(found), newest_format, look_at
        rows = session.run(DISPATCH_CALLS, *wanted, *limits, due_since, CallState.PENDING)
        more = rows[0][0]
        found += [(key, effect) for _, key, effect in rows if key is not None]
        look_at *= 10
    return found


COUNT_NEWER_CALLS = Statement(
    "count_newer_calls",
    """
    SELECT count(*) FROM (
        SELECT FROM sluice.executed_side_effects
        WHERE format > 1 AND format > $1 AND state IN ('pending', 'running') LIMIT 1000
    ) newer
    """,
    ("int",),
)


def count_newer_calls(session: Session, newest_format: int) -> int:
    """Returns the number of open calls in a newer format, counted up to 1,000."""
    ((count,),) = session.run(COUNT_NEWER_CALLS, newest_format)
    return int(count)
