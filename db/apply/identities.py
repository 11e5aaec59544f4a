"""`processed_events`: the identities of events.

A repeat is recognised by its identity, and changes nothing.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sluice.db.connection import Session, Statement
from sluice.db.errors import RowsChanged
from sluice.db.records import ProcessedRow
from sluice.db.values import array_and_default, bare_array, text_array, uuid_array

LOAD_IDENTITIES = Statement(
    "load_identities",
    """
    SELECT identity, data_hash, topic_id, partition, "offset", processed_at < now() - interval '12 hours'
    FROM sluice.processed_events
    WHERE identity = ANY ($1)
    """,
    ("uuid[]",),
)


def load_identities(session: Session, identities: Sequence[UUID]) -> list[tuple[Any, ...]]:
    """Returns the stored identities.

    Each is (identity, data hash, topic id, partition, offset, True if older than half a day).
    """
    return session.run(LOAD_IDENTITIES, bare_array(identities))


RENEW_IDENTITIES = Statement(
    "renew_identities",
    "UPDATE sluice.processed_events SET processed_at = clock_timestamp() WHERE identity = ANY ($1)",
    ("uuid[]",),
)


def renew_identities(session: Session, identities: Sequence[UUID]) -> None:
    """Resets the age of repeated identities, because a repeat stays in the log as long as a new event."""
    if identities:
        session.run(RENEW_IDENTITIES, bare_array(identities))


HAS_PLACED_EVENTS = Statement(
    "has_placed_events",
    """
    SELECT EXISTS (
        SELECT FROM sluice.processed_events
        WHERE topic = $1 AND processed_at < $2 AND (event_id IS NULL OR $3)
          AND outcome IN ('applied', 'stale', 'duplicate')
    )
    """,
    ("text", "timestamptz", "boolean"),
)


def has_placed_events(session: Session, topic: str, before: datetime, *, by_position: bool) -> bool:
    """Returns True if events of a topic were applied before a time and are identified by their offsets.

    `by_position` is True if all events of the topic are identified by their offsets. If no
    event qualifies, the statement reads all events of the topic up to that time.
    """
    ((found,),) = session.run(HAS_PLACED_EVENTS, topic, before, by_position)
    return bool(found)


INSERT_IDENTITIES = Statement(
    "insert_identities",
    """
    INSERT INTO sluice.processed_events
        (identity, event_id, data_hash, outcome, topic, topic_id, partition, "offset")
    SELECT d.identity, d.event_id, d.data_hash, coalesce(d.outcome, $7), coalesce(d.topic, $9),
           coalesce(d.topic_id, $11), d.partition, d."offset"
    FROM unnest($1, $2, $3, $4, $5, $6, $8, $10)
         AS d (identity, event_id, data_hash, partition, "offset", outcome, topic, topic_id)
    ON CONFLICT (identity) DO NOTHING
    """,
    (
        *("uuid[]", "text[]", "uuid[]", "int[]", "bigint[]"),
        *("text[]", "text", "text[]", "text", "text[]", "text"),
    ),
)


def insert_identities(session: Session, rows: Sequence[ProcessedRow]) -> None:
    """Stores identities. Raises RowsChanged if one was stored meanwhile, so that the fold missed it."""
    if rows and (inserted := session.count(INSERT_IDENTITIES, *_arrays(rows))) != len(rows):
        raise RowsChanged(f"another transaction stored {len(rows) - inserted} of the identities")


NOTE_IDENTITIES = Statement(
    "note_identities",
    f"""
    WITH inserted AS ({INSERT_IDENTITIES.text} RETURNING identity)
    SELECT d.identity FROM unnest($1) AS d (identity)
    -- Mostly all are new. The first condition is checked once, and then the second one is not computed.
    WHERE (SELECT count(*) FROM inserted) < cardinality($1)
      AND NOT EXISTS (SELECT FROM inserted i WHERE i.identity = d.identity)
    """,
    INSERT_IDENTITIES.types,
)


def note_new_identities(session: Session, rows: Sequence[ProcessedRow]) -> set[UUID]:
    """Stores the identities that are new. Returns the others, whose rows are unchanged."""
    return {identity for (identity,) in session.run(NOTE_IDENTITIES, *_arrays(rows))} if rows else set()


def _arrays(rows: Sequence[ProcessedRow]) -> list[str | None]:
    identities, event_ids, hashes, outcomes, topics, topic_ids, partitions, offsets = zip(*rows, strict=True)
    return [
        uuid_array(identities),
        text_array(event_ids),
        uuid_array(hashes),
        bare_array(partitions),
        bare_array(offsets),
        *array_and_default(outcomes),
        *array_and_default(topics),
        *array_and_default(topic_ids),
    ]


UPDATE_OUTCOMES = Statement(
    "update_outcomes",
    """
    UPDATE sluice.processed_events e SET outcome = d.outcome
    FROM unnest($1, $2, $3, $4, $5) AS d (identity, outcome, topic_id, partition, "offset")
    -- The identities are passed a second time, which gives an index scan.
    WHERE e.identity = d.identity AND e.identity = ANY ($1)
      -- Updates only the record's own row. The row of a duplicate's identity belongs to another record.
      AND e.topic_id = d.topic_id AND e.partition = d.partition AND e."offset" = d."offset"
    """,
    ("uuid[]", "text[]", "text[]", "int[]", "bigint[]"),
)


def update_outcomes(session: Session, rows: Sequence[tuple[UUID, str, str, int, int]]) -> None:
    """Updates outcomes of records: (identity, outcome, topic id, partition, offset). Idempotent."""
    if rows:
        ids, outcomes, topic_ids, partitions, offsets = zip(*rows, strict=True)
        session.run(
            UPDATE_OUTCOMES,
            bare_array(ids),
            text_array(outcomes),
            text_array(topic_ids),
            bare_array(partitions),
            bare_array(offsets),
        )
