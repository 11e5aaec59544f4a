"""Reads erased entities, for processes that apply records. Notes the tables that events write."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sluice.db.connection import Session, Statement
from sluice.db.values import bare_array, text_array

PAGE_ROWS = 50_000

READ_ERASURE_KEY = Statement("read_erasure_key", "SELECT key FROM sluice.erasure_key WHERE is_only")


def read_erasure_key(session: Session) -> bytes | None:
    """Returns the key for the hashes of erased keys; None if no entity was ever erased."""
    rows = session.run(READ_ERASURE_KEY)
    return bytes(rows[0][0]) if rows else None


READ_NEWEST_ERASURE = Statement(
    "read_newest_erasure", "SELECT coalesce(max(id), 0)::bigint FROM sluice.erasures"
)


def read_newest_erasure(session: Session) -> int:
    """Returns the id of the newest erasure; 0 if there is no erasure. `read_lanes` returns this id too."""
    ((newest,),) = session.run(READ_NEWEST_ERASURE)
    return int(newest)


READ_ERASED_HASHES = Statement(
    "read_erased_hashes",
    "SELECT id, entity, key_hash FROM sluice.erasures WHERE id > $1 ORDER BY id LIMIT $2",
    ("bigint", "int"),
)


def read_erased_hashes(session: Session, after: int) -> list[tuple[int, str, UUID]]:
    """Returns the first PAGE_ROWS erasures after an id, as (id, entity type, hash of the key)."""
    rows = session.run(READ_ERASED_HASHES, after, PAGE_ROWS)
    return [(number, entity, key_hash) for number, entity, key_hash in rows]


class StoredErasure(NamedTuple):
    """One erasure of an entity. `log_ends` is {topic id: {partition as text: end of its log}}."""

    key_hash: UUID
    erased_at: datetime
    log_ends: Mapping[str, Mapping[str, int]]


READ_ERASURES = Statement(
    "read_erasures",
    """
    SELECT key_hash, erased_at, log_ends FROM sluice.erasures
    WHERE entity = $1 AND key_hash = ANY ($2)
    """,
    ("text", "uuid[]"),
)


def read_erasures(session: Session, entity: str, key_hashes: Sequence[UUID]) -> list[StoredErasure]:
    """Returns all erasures of the entities with these hashes."""
    rows = session.run(READ_ERASURES, entity, bare_array(key_hashes))
    return [StoredErasure(*row) for row in rows]


LOWER_LOG_ENDS = Statement(
    "lower_log_ends",
    """
    UPDATE sluice.erasures e SET log_ends = jsonb_set(e.log_ends, ARRAY[$1], (
        SELECT jsonb_object_agg(was.partition, least(was.log_end::bigint, now.log_end))
        FROM jsonb_each_text(e.log_ends -> $1) AS was (partition, log_end)
        LEFT JOIN unnest($2, $3) AS now (partition, log_end) ON now.partition = was.partition::int
    ))
    WHERE e.log_ends -> $1 <> '{}'
    """,
    ("text", "int[]", "bigint[]"),
)


def lower_log_ends(session: Session, topic_id: str, ends: Mapping[int, int]) -> None:
    """Lowers the stored ends of a log that lost its newest records. Idempotent.

    New records will get the offsets of the lost records, and the erasure must not concern them.
    """
    session.run(LOWER_LOG_ENDS, topic_id, bare_array(ends), bare_array(ends.values()))


READ_PROCESSED_TIMES = Statement(
    "read_processed_times",
    "SELECT identity, processed_at FROM sluice.processed_events WHERE identity = ANY ($1)",
    ("uuid[]",),
)


def read_processed_times(session: Session, identities: Sequence[UUID]) -> dict[UUID, datetime]:
    """Returns identity → the time when the event got its outcome."""
    rows: list[tuple[Any, ...]] = session.run(READ_PROCESSED_TIMES, bare_array(identities))
    return dict(rows)


NOTE_ENTITY_TABLES = Statement(
    "note_entity_tables",
    """
    INSERT INTO sluice.entity_tables AS t (entity, table_name, keyed_otherwise)
    SELECT $1, d.table_name, d.keyed_otherwise FROM unnest($2, $3) AS d (table_name, keyed_otherwise)
    ORDER BY d.table_name
    ON CONFLICT (entity, table_name) DO UPDATE SET keyed_otherwise = true
    WHERE excluded.keyed_otherwise AND NOT t.keyed_otherwise
    """,
    ("text", "text[]", "bool[]"),
)


def note_entity_tables(session: Session, entity: str, tables: Mapping[str, bool]) -> int:
    """Notes the tables that events of the entity type wrote. Idempotent. Returns the number of changed notes.

    `tables`: table → True if events also wrote the table under keys other than their own.
    """
    names = sorted(tables)
    otherwise = bare_array([tables[name] for name in names])
    return session.count(NOTE_ENTITY_TABLES, entity, text_array(names), otherwise)
