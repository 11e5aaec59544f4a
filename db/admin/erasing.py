"""Erases one entity from Sluice's own tables. Reads the work that must be settled before an erasure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sluice.db.connection import Session, Statement
from sluice.db.identifiers import qualified, quoted
from sluice.db.records import ENTITY_ERASED
from sluice.db.values import bare_array, text_array

PATIENCE = "SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '60s'"

MAKE_ERASURE_KEY = Statement(
    "make_erasure_key", "INSERT INTO sluice.erasure_key (key) VALUES ($1) ON CONFLICT DO NOTHING", ("bytea",)
)
LOCK_ERASURE_KEY = Statement(
    "lock_erasure_key", "SELECT key FROM sluice.erasure_key WHERE is_only FOR UPDATE"
)


def lock_erasure_key(session: Session, fresh: bytes) -> bytes:
    """Takes the lock of all erasures. Returns the erasure key.

    The first erasure stores `fresh` as this key.
    """
    session.command(PATIENCE)
    session.run(MAKE_ERASURE_KEY, fresh)
    ((key,),) = session.run(LOCK_ERASURE_KEY)
    return bytes(key)


INSERT_ERASURE = Statement(
    "insert_erasure",
    "INSERT INTO sluice.erasures (entity, key_hash, log_ends) VALUES ($1, $2, $3) RETURNING erased_at",
    ("text", "uuid", "jsonb"),
)


def insert_erasure(session: Session, entity: str, key_hash: UUID, log_ends: str) -> datetime:
    """Stores an erasure. Records below `log_ends` are passed over from now on.

    Returns the time of the erasure. Requires the lock of all erasures and the lock of the queue.
    """
    ((erased_at,),) = session.run(INSERT_ERASURE, entity, key_hash, log_ends)
    assert isinstance(erased_at, datetime)
    return erased_at


READ_REACHED = Statement(
    "read_reached",
    """
    SELECT t.topic, t.topic_id, r.partition, max(r.reached)
    FROM sluice.topics t
    LEFT JOIN (
        SELECT topic, partition, watermark AS reached FROM sluice.partition_watermarks
        UNION ALL SELECT topic, partition, applied_offset + 1 FROM sluice.lane_offsets
    ) r ON r.topic = t.topic
    WHERE t.entity = $1
    GROUP BY 1, 2, 3
    """,
    ("text",),
)


class Reached(NamedTuple):
    """The first unapplied offset of a partition.

    The last two fields are None for a topic without partitions.
    """

    topic: str
    topic_id: str
    partition: int | None
    offset: int | None


def read_reached(session: Session, entity: str) -> list[Reached]:
    """Returns the topics of an entity type, with the first unapplied offset of each partition."""
    return [Reached(*row) for row in session.run(READ_REACHED, entity)]


class Unsent(NamedTuple):
    """Waiting outgoing events: their number, the first event and its topic."""

    events: int
    queue: str | None
    first_id: int | None
    topic: str | None


# After a forced re-routing, queues of an earlier shard count may still have events.
READ_UNSENT = Statement(
    "read_unsent",
    """
    SELECT count(*), min(id), (array_agg(o.queue ORDER BY id))[1], (array_agg(topic ORDER BY id))[1]
    FROM sluice.outbox_events o
    WHERE o.queue IN (
        SELECT q.queue FROM sluice.queues q JOIN sluice.entities e ON e.entity = q.entity
        WHERE q.entity = $1 AND (q.queue = $2 OR split_part(q.queue, '.', 2)::int >= e.shards)
    ) AND ($3 IS NULL OR id <= $3)
    """,
    ("text", "text", "bigint"),
)


def read_unsent(session: Session, entity: str, queue: str, newest: int | None = None) -> Unsent:
    """Returns the waiting events of a queue and of unused queues, up to the id `newest` (None: all)."""
    ((events, first_id, first_queue, topic),) = session.run(READ_UNSENT, entity, queue, newest)
    return Unsent(events, first_queue, first_id, topic)


READ_NEWEST_OUTGOING = Statement("read_newest_outgoing", "SELECT max(id) FROM sluice.outbox_events")


def read_newest_outgoing(session: Session) -> int | None:
    """Returns the newest id of all outgoing events; None if there are no outgoing events."""
    ((newest,),) = session.run(READ_NEWEST_OUTGOING)
    return None if newest is None else int(newest)


READ_UNSETTLED_CALLS = Statement(
    "read_unsettled_calls",
    """
    SELECT effect, state, count(*) FROM sluice.executed_side_effects
    WHERE entity = $1 AND entity_key = $2 AND state IN ('pending', 'running', 'uncertain')
    GROUP BY 1, 2 ORDER BY 1, 2
    """,
    ("text", "text"),
)


def read_unsettled_calls(session: Session, entity: str, key: str) -> list[tuple[str, str, int]]:
    """Returns (effect, state, number) of an entity's calls that are not settled."""
    return [(effect, state, count) for effect, state, count in session.run(READ_UNSETTLED_CALLS, entity, key)]


READ_ENTITY_TABLES = Statement(
    "read_entity_tables",
    "SELECT entity, table_name, keyed_otherwise FROM sluice.entity_tables ORDER BY table_name, entity",
)


def read_entity_tables(session: Session) -> list[tuple[str, str, bool]]:
    """Returns (entity type, table, flag). Events of the entity type write the table.

    The flag is True if they also write the table under keys other than their own.
    """
    return [(entity, table, bool(other)) for entity, table, other in session.run(READ_ENTITY_TABLES)]


TABLE_EXISTS = Statement("table_exists", "SELECT to_regclass($1) IS NOT NULL", ("text",))


def table_exists(session: Session, table: str) -> bool:
    """Returns True if schema public has a table or view of this name."""
    ((exists,),) = session.run(TABLE_EXISTS, qualified(table))
    return bool(exists)


def delete_rows_of(session: Session, table: str, column: str, key: str) -> int:
    """Deletes the rows of a key. Returns their number.

    Raises IntegrityError if another table references them.
    """
    text = f"DELETE FROM {qualified(table)} WHERE {quoted(column)} = $1"
    return session.count(Statement(f"erase {table}"[:60], text, ("text",)), key)


def has_row(session: Session, table: str, column: str, key: str) -> bool:
    """Returns True if a table has a row with this key."""
    text = f"SELECT EXISTS (SELECT FROM {qualified(table)} WHERE {quoted(column)} = $1)"
    ((found,),) = session.run(Statement(f"has {table}"[:60], text, ("text",)), key)
    return bool(found)


DELETE_KEY_TOMBSTONES = Statement(
    "delete_key_tombstones",
    "DELETE FROM sluice.tombstones WHERE table_name = ANY ($1) AND key = $2",
    ("text[]", "text"),
)


def delete_tombstones_of(session: Session, tables: Sequence[str], key: str) -> int:
    """Deletes the tombstones of the key in these tables. Returns their number."""
    return session.count(DELETE_KEY_TOMBSTONES, text_array(tables), key)


class ErasedLetter(NamedTuple):
    """A letter of the entity before the erasure."""

    id: int
    topic: str
    topic_id: str
    partition: int
    offset: int
    identity: UUID
    outcome: str
    state: str


READ_LETTERS_OF = Statement(
    "read_letters_of",
    """
    SELECT id, topic, topic_id, partition, "offset", identity, outcome, state FROM sluice.dead_letters
    WHERE entity = $1 AND entity_key = $2 ORDER BY id FOR UPDATE
    """,
    ("text", "text"),
)
# The flaw marks the value as missing. Without the flaw, `dlq export` would write the letter as a tombstone.
_EMPTY = f"""
    UPDATE sluice.%s SET
        state = 'dropped', settled_at = now(), key = NULL, value = NULL, headers = '[]', entity_key = NULL,
        event_id = NULL, type = NULL, source = NULL, error_class = '{ENTITY_ERASED}',
        error_text = 'an operator erased its entity', traceback = '', flaw = '{{"erased": true}}', format = 2
    WHERE entity = $1 AND entity_key = $2
"""
EMPTY_LETTERS_OF = Statement("empty_letters_of", _EMPTY % "dead_letters", ("text", "text"))
EMPTY_PROJECTION_LETTERS_OF = Statement(
    "empty_projection_letters_of", _EMPTY % "projection_letters", ("text", "text")
)


def empty_letters(session: Session, entity: str, key: str) -> list[ErasedLetter]:
    """Drops the letters of an entity, and keeps only their offsets and identities.

    Returns the letters as they were before.
    """
    found = [ErasedLetter(*row) for row in session.run(READ_LETTERS_OF, entity, key)]
    session.run(EMPTY_LETTERS_OF, entity, key)
    return found


MARK_ERASED = Statement(
    "mark_erased",
    """
    UPDATE sluice.processed_events e SET outcome = coalesce(d.outcome, e.outcome), event_id = NULL
    FROM unnest($1, $2, $3, $4, $5) AS d (identity, topic_id, partition, "offset", outcome)
    WHERE e.identity = d.identity
      AND e.topic_id = d.topic_id AND e.partition = d.partition AND e."offset" = d."offset"
    """,
    ("uuid[]", "text[]", "int[]", "bigint[]", "text[]"),
)


def mark_erased(session: Session, letters: Sequence[ErasedLetter], outcomes: Sequence[str | None]) -> None:
    """Sets the outcome of the letters' events (None keeps it) and clears their ids."""
    if letters:
        session.run(
            MARK_ERASED,
            bare_array(one.identity for one in letters),
            text_array(one.topic_id for one in letters),
            bare_array(one.partition for one in letters),
            bare_array(one.offset for one in letters),
            text_array(outcomes),
        )


DELETE_PARKED = Statement(
    "delete_parked", "DELETE FROM sluice.parked_entities WHERE entity = $1 AND key = $2", ("text", "text")
)
DELETE_RETRIES_OF = Statement(
    "delete_retries_of", "DELETE FROM sluice.retries WHERE entity = $1 AND key = $2", ("text", "text")
)
DELETE_GENERATION_DEATHS = Statement(
    "delete_generation_deaths",
    """
    DELETE FROM sluice.generation_deaths d USING sluice.topics t
    WHERE t.topic = d.topic AND t.entity = $1 AND d.key = $2
    """,
    ("text", "text"),
)
# Reports that contain the key are obsolete, because the compared rows are erased.
DELETE_REPORTS = Statement(
    "delete_reports_of",
    "DELETE FROM sluice.generation_reports WHERE projection = ANY ($1) AND strpos(report::text, $2) > 0",
    ("text[]", "text"),
)


def delete_traces(
    session: Session, entity: str, key: str, projections: Sequence[str], json_key: str
) -> Mapping[str, int]:
    """Deletes other rows that contain the key. Returns table → number of rows.

    `json_key`: the key in JSON form.
    """
    return {
        "parked_entities": session.count(DELETE_PARKED, entity, key),
        "projection_letters": session.count(EMPTY_PROJECTION_LETTERS_OF, entity, key),
        "retries": session.count(DELETE_RETRIES_OF, entity, key),
        "generation_deaths": session.count(DELETE_GENERATION_DEATHS, entity, key),
        "generation_reports": session.count(DELETE_REPORTS, text_array(projections), json_key),
    }
