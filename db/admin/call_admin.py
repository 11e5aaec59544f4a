"""The ledger of calls, for operators: counts and lists calls and conflicts, releases and settles calls."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sluice.db.admin.outbox_admin import BEHIND_NEWEST, LOOKING
from sluice.db.connection import Session, Statement
from sluice.db.records import CallState
from sluice.db.values import bare_array, text_array

PAGE_ROWS = 500


class Chosen(NamedTuple):
    """A filter of calls. None means any value. `older_than_seconds` is the least age of the stored call."""

    state: str | None = None
    effect: str | None = None
    entity: str | None = None
    entity_key: str | None = None
    older_than_seconds: float | None = None


class ListedCall(NamedTuple):
    """A call without its args and answer.

    `tried`: the number of attempts since the last release of the call.
    """

    id: int
    effect_key: str
    effect: str
    entity: str
    entity_key: str | None
    state: str
    attempt: int
    tried: int
    error: str | None
    due_at: datetime
    age_seconds: float
    due_in_seconds: float


class WholeCall(NamedTuple):
    """Everything that the ledger stores about a call."""

    id: int
    effect_key: str
    effect: str
    entity: str
    entity_key: str | None
    state: str
    attempt: int
    tried: int
    error: str | None
    due_at: datetime
    age_seconds: float
    due_in_seconds: float
    identity: UUID
    explicit_once: bool
    args: dict[str, Any] | None
    response: Any
    ended_unknown: bool
    first_attempt_at: datetime | None
    claimed_until: datetime | None
    dispatched_at: datetime | None
    created_at: datetime
    settled_at: datetime | None


class CallConflict(NamedTuple):
    """A call that was not made, because a call with the same key and other args (`made_args`) existed."""

    id: int
    effect_key: str
    identity: UUID
    args: dict[str, Any]
    created_at: datetime
    state: str | None
    made_args: dict[str, Any] | None


_LISTED = """id, effect_key, effect, entity, entity_key, state, attempt, tried, error, due_at,
    extract(epoch FROM now() - created_at)::float8, extract(epoch FROM due_at - now())::float8"""
_WHOLE = f"""{_LISTED}, identity, explicit_once, args, response, ended_unknown, first_attempt_at,
    claimed_until, dispatched_at, created_at, settled_at"""
# The parameters are the fields of Chosen, in order.
_CHOSEN = """($1 IS NULL OR state = $1) AND ($2 IS NULL OR effect = $2) AND ($3 IS NULL OR entity = $3)
    AND ($4 IS NULL OR entity_key = $4)
    AND ($5 IS NULL OR created_at < now() - make_interval(secs => $5))"""
_CHOSEN_TYPES = ("text", "text", "text", "text", "float8")

COUNT_CALLS = Statement(
    "count_calls",
    f"""
    SELECT effect, state, count(*) FROM sluice.executed_side_effects WHERE {_CHOSEN}
    GROUP BY effect, state ORDER BY effect, state
    """,
    _CHOSEN_TYPES,
)


def count_calls(session: Session, chosen: Chosen) -> list[tuple[str, str, int]]:
    """Returns (effect, state, number of calls). Omits empty groups."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [(effect, state, count) for effect, state, count in session.run(COUNT_CALLS, *chosen)]


class CallReason(NamedTuple):
    """The number of calls that have not succeeded and share an error, and the newest of these calls."""

    calls: int
    effect: str
    state: str
    newest_key: str
    error: str


COUNT_REASONS = Statement(
    "count_call_reasons",
    f"""
    SELECT count(*), effect, state, (array_agg(effect_key ORDER BY id DESC))[1], error
    FROM sluice.executed_side_effects
    WHERE {_CHOSEN} AND state <> 'succeeded' AND error IS NOT NULL
    GROUP BY effect, state, error HAVING count(*) > 1
    ORDER BY count(*) DESC, max(id) DESC LIMIT $6
    """,
    (*_CHOSEN_TYPES, "int"),
)


def count_call_reasons(session: Session, chosen: Chosen, *, limit: int) -> list[CallReason]:
    """Returns the errors that several of the chosen calls share, the most frequent first."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [CallReason(*row) for row in session.run(COUNT_REASONS, *chosen, limit)]


_CALLS = f"SELECT {_LISTED} FROM sluice.executed_side_effects WHERE {_CHOSEN} AND id"
_CALLS_TYPES = (*_CHOSEN_TYPES, "bigint", "int")
READ_CALLS = Statement("read_calls", f"{_CALLS} < $6 ORDER BY id DESC LIMIT $7", _CALLS_TYPES)
READ_NEXT_CALLS = Statement("read_next_calls", f"{_CALLS} > $6 ORDER BY id LIMIT $7", _CALLS_TYPES)


def read_calls(session: Session, chosen: Chosen, *, after: int, limit: int) -> list[ListedCall]:
    """Returns calls, newest first.

    Begins after the call with the id `after`, or with the newest call if `after` is 0.
    """
    return _read_page(session, READ_CALLS, chosen, after or BEHIND_NEWEST, limit)


def read_all_calls(session: Session, chosen: Chosen) -> Iterator[ListedCall]:
    """Yields all calls, oldest first, page by page.

    A call keeps its id when it is released, so the iteration ends.
    """
    after = 0
    while page := _read_page(session, READ_NEXT_CALLS, chosen, after, PAGE_ROWS):
        yield from page
        after = page[-1].id


def _read_page(
    session: Session, statement: Statement, chosen: Chosen, after: int, limit: int
) -> list[ListedCall]:
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [ListedCall(*row) for row in session.run(statement, *chosen, after, limit)]


READ_CALL = Statement(
    "read_call", f"SELECT {_WHOLE} FROM sluice.executed_side_effects WHERE effect_key = $1", ("text",)
)


def read_call(session: Session, effect_key: str) -> WholeCall | None:
    """Returns one call; None if no call has this key."""
    rows = session.run(READ_CALL, effect_key)
    return WholeCall(*rows[0]) if rows else None


# The same rule is in `db/sending/calls.py`, and a test compares both. $2: effects that hold back later calls.
READ_CALLS_BEFORE = Statement(
    "read_calls_before",
    """
    SELECT b.effect_key, b.state
    FROM sluice.executed_side_effects e
    JOIN sluice.executed_side_effects b
      ON b.entity = e.entity AND b.entity_key = e.entity_key AND b.effect = e.effect
    WHERE e.effect_key = $1 AND b.state <> 'succeeded' AND b.id <> e.id
      AND (b.state = 'running' OR b.id < e.id AND (b.state = 'pending' OR b.effect = ANY ($2)))
    ORDER BY b.id LIMIT $3
    """,
    ("text", "text[]", "int"),
)


def read_calls_before(
    session: Session, effect_key: str, holding: Iterable[str], *, limit: int
) -> Sequence[tuple[str, str]]:
    """Returns (effect key, state) of the calls that must end before this call begins.

    These are calls of the same entity and effect.
    """
    return [
        (key, state) for key, state in session.run(READ_CALLS_BEFORE, effect_key, text_array(holding), limit)
    ]


READ_CALL_CONFLICTS = Statement(
    "read_call_conflicts",
    """
    SELECT c.id, c.effect_key, c.identity, c.args, c.created_at, e.state, e.args
    FROM sluice.call_conflicts c
    LEFT JOIN sluice.executed_side_effects e ON e.effect_key = c.effect_key
    WHERE ($1 IS NULL OR e.effect = $1) AND c.id < $2
    ORDER BY c.id DESC LIMIT $3
    """,
    ("text", "bigint", "int"),
)


def read_call_conflicts(
    session: Session, effect: str | None, *, after: int, limit: int
) -> list[CallConflict]:
    """Returns calls that were not made because of a call with the same key and other args, newest first."""
    rows = session.run(READ_CALL_CONFLICTS, effect, after or BEHIND_NEWEST, limit)
    return [CallConflict(*row) for row in rows]


# Counts only open calls. The index contains only open calls, so succeeded calls cost no time.
COUNT_OPEN_CALLS = Statement(
    "count_open_calls",
    """
    SELECT effect, count(*) FROM sluice.executed_side_effects
    WHERE state <> 'succeeded' GROUP BY effect ORDER BY effect
    """,
)


def count_open_calls(session: Session) -> dict[str, int]:
    """Returns effect → number of calls that have not succeeded."""
    return dict(session.run(COUNT_OPEN_CALLS))


# `attempt` is not reset, because it distinguishes the answer of the next attempt from late answers of earlier
# attempts. It must still have the value that was read, because the operator decided about that attempt.
RELEASE_CALLS = Statement(
    "release_calls",
    """
    UPDATE sluice.executed_side_effects e
    SET state = 'pending', tried = 0, ended_unknown = false, first_attempt_at = NULL, claimed_until = NULL,
        due_at = now(), dispatched_at = NULL, settled_at = NULL
    FROM unnest($1, $2, $3) AS d (effect_key, state, attempt)
    WHERE e.effect_key = d.effect_key AND e.state = d.state AND e.attempt = d.attempt
      AND e.state IN ('failed', 'uncertain')
    RETURNING e.effect_key
    """,
    ("text[]", "text[]", "int[]"),
)


def release_calls(session: Session, calls: Sequence[ListedCall | WholeCall]) -> set[str]:
    """Sets failed or uncertain calls to pending and due, as if they were never tried. Returns their keys.

    Skips a call that changed after it was read. Idempotent: a second run changes no call.
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
    SET state = $3, response = $4::jsonb, error = $5, claimed_until = NULL, settled_at = now()
    WHERE effect_key = $1 AND attempt = $2 AND state = 'uncertain'
    """,
    ("text", "int", "text", "text", "text"),
)


def settle_call(
    session: Session, call: WholeCall, *, state: CallState, response: str | None, error: str | None
) -> bool:
    """Settles an uncertain call. Returns False if the call has changed since it was read.

    `response` is JSON.
    """
    return session.count(SETTLE_CALL, call.effect_key, call.attempt, state, response, error) == 1
