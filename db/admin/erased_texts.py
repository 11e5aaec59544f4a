"""Erases an entity's key from texts: event ids, settled calls, error texts, `audit`.

Large tables are read one range of pages at a time, after the erasure is committed. At that time, the entity's
rows in these tables are settled and no longer change.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.values import bare_array, text_array

PAGES = 2_000  # pages per statement, which are 16 MB

READ_PAGES = Statement(
    "read_pages",
    "SELECT pg_relation_size($1::regclass) / current_setting('block_size')::int",
    ("text",),
)


def page_ranges(session: Session, table: str) -> Iterator[tuple[str, str]]:
    """Yields ranges of row ids, as (first, end), that cover all current rows of a table of Sluice."""
    ((pages,),) = session.run(READ_PAGES, f"{session.schema}.{table}")
    for page in range(0, pages + 1, PAGES):
        yield f"({page},0)", f"({page + PAGES},0)"


_EVENT_IDS = """ctid >= $1 AND ctid < $2 AND strpos(event_id, $4) > 0
    AND topic IN (SELECT topic FROM sluice.topics WHERE entity = $3)"""
CLEAR_EVENT_IDS = Statement(
    "clear_event_ids",
    f"UPDATE sluice.processed_events SET event_id = NULL WHERE {_EVENT_IDS}",
    ("tid", "tid", "text", "text"),
)
COUNT_EVENT_IDS = Statement(
    "count_event_ids",
    f"SELECT count(*) FROM sluice.processed_events WHERE {_EVENT_IDS}",
    ("tid", "tid", "text", "text"),
)


def count_event_ids(session: Session, between: tuple[str, str], entity: str, key: str) -> int:
    """Returns the number of event ids that contain the key."""
    ((count,),) = session.run(COUNT_EVENT_IDS, *between, entity, key)
    return int(count)


def clear_event_ids(session: Session, between: tuple[str, str], entity: str, key: str) -> int:
    """Clears event ids that contain the key. Returns their number.

    The identities of the events are kept, because they detect repeats.
    """
    return session.count(CLEAR_EVENT_IDS, *between, entity, key)


READ_SETTLED_CALLS = Statement(
    "read_settled_calls",
    """
    SELECT effect_key, explicit_once AND state = 'succeeded' FROM sluice.executed_side_effects
    WHERE ctid >= $1 AND ctid < $2 AND entity = $3 AND entity_key = $4 AND created_at <= $5
      AND state IN ('succeeded', 'failed')
    FOR UPDATE
    """,
    ("tid", "tid", "text", "text", "timestamptz"),
)


def read_settled_calls(
    session: Session, between: tuple[str, str], entity: str, key: str, until: datetime
) -> list[tuple[str, bool]]:
    """Returns the settled calls of an entity that were stored up to a time: (key, flag).

    The flag is True if the key of the call must stay in the ledger.
    """
    rows = session.run(READ_SETTLED_CALLS, *between, entity, key, until)
    return [(effect_key, bool(stays)) for effect_key, stays in rows]


DELETE_CALLS = Statement(
    "delete_calls", "DELETE FROM sluice.executed_side_effects WHERE effect_key = ANY ($1)", ("text[]",)
)
RENAME_CALLS = Statement(
    "rename_calls",
    """
    UPDATE sluice.executed_side_effects e
    SET effect_key = d.stand_in, entity_key = NULL, args = NULL, response = NULL, error = NULL
    FROM unnest($1, $2) AS d (effect_key, stand_in) WHERE e.effect_key = d.effect_key
    """,
    ("text[]", "text[]"),
)
DELETE_CONFLICTS_OF = Statement(
    "delete_conflicts_of", "DELETE FROM sluice.call_conflicts WHERE effect_key = ANY ($1)", ("text[]",)
)


def erase_calls(session: Session, gone: Sequence[str], stand_ins: Sequence[tuple[str, str]]) -> None:
    """Deletes the calls `gone`.

    Renames calls whose keys must stay in the ledger, and clears their other columns.
    """
    session.run(DELETE_CONFLICTS_OF, text_array([*gone, *(key for key, _ in stand_ins)]))
    session.run(DELETE_CALLS, text_array(gone))
    keys, instead = [one for one, _ in stand_ins], [other for _, other in stand_ins]
    session.run(RENAME_CALLS, text_array(keys), text_array(instead))


class Mention(NamedTuple):
    """A row whose texts may contain the key."""

    id: int
    verb: str
    subject: str
    reason: str
    details: Any


READ_CONFLICT_MENTIONS = Statement(
    "read_conflict_mentions",
    """
    SELECT id, '', effect_key, '', args FROM sluice.call_conflicts
    WHERE strpos(effect_key, $1) > 0 OR strpos(args::text, $2) > 0
    """,
    ("text", "text"),
)
DELETE_CONFLICTS = Statement(
    "delete_conflicts", "DELETE FROM sluice.call_conflicts WHERE id = ANY ($1)", ("bigint[]",)
)
READ_AUDIT_MENTIONS = Statement(
    "read_audit_mentions",
    """
    SELECT id, verb, subject, reason, details FROM sluice.audit
    WHERE strpos(subject, $1) > 0 OR strpos(reason, $1) > 0 OR strpos(details::text, $2) > 0
       -- The decision may contain the payload of a dropped outgoing event.
       OR verb = 'outbox drop' AND starts_with(subject, $3 || '.')
    """,
    ("text", "text", "text"),
)
REWRITE_AUDIT = Statement(
    "rewrite_audit",
    "UPDATE sluice.audit SET subject = $2, reason = $3, details = $4 WHERE id = $1",
    ("bigint", "text", "text", "jsonb"),
)


def read_conflict_mentions(session: Session, key: str, json_key: str) -> list[Mention]:
    """Returns the calls in `call_conflicts` that contain the key, plain or in its JSON form."""
    return [Mention(*row) for row in session.run(READ_CONFLICT_MENTIONS, key, json_key)]


def delete_conflicts(session: Session, ids: Sequence[int]) -> int:
    """Deletes calls that were not made because of a conflict. Returns their number."""
    return session.count(DELETE_CONFLICTS, bare_array(ids))


def read_audit_mentions(session: Session, entity: str, key: str, json_key: str) -> list[Mention]:
    """Returns the operators' decisions that may contain the key, plain or in its JSON form."""
    return [Mention(*row) for row in session.run(READ_AUDIT_MENTIONS, key, json_key, entity)]


def rewrite_audit(session: Session, row: Mention, details: str | None) -> None:
    """Replaces the texts of an operator's decision."""
    session.run(REWRITE_AUDIT, row.id, row.subject, row.reason, details)


# Columns (table, column) with error texts, which may quote keys, or with operators' reasons.
_TEXTS = (
    ("queues", "halted_reason"),
    ("queue_failures", "error"),
    ("generations", "failed_reason"),
    ("switches", "reason"),
)


def replace_in_errors(session: Session, pattern: str, mark: str) -> int:
    """Replaces matches of the pattern in error texts. Returns the number of changed rows."""
    return sum(
        session.count(
            Statement(
                f"erase_{table}_{column}",
                f"""
                UPDATE sluice.{table} SET {column} = regexp_replace({column}, $1, $2, 'g')
                WHERE {column} ~ $1
                """,
                ("text", "text"),
            ),
            pattern,
            mark,
        )
        for table, column in _TEXTS
    )
