"""`processed_events`: what is remembered of every event, so that a repeat changes nothing."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sluice.db.connection import Session, Statement
from sluice.db.errors import RowsChanged
from sluice.db.records import ProcessedRow
from sluice.db.values import bare_array, text_array

LOAD_IDENTITIES = Statement(
    "load_identities",
    """
    SELECT identity, data_hash, topic_id, partition, "offset" FROM sluice.processed_events
    WHERE identity = ANY ($1)
    """,
    ("uuid[]",),
)


def load_identities(session: Session, identities: Sequence[UUID]) -> list[tuple[Any, ...]]:
    """Those that are known: (identity, data hash, topic id, partition, offset)."""
    return session.run(LOAD_IDENTITIES, bare_array(identities))


LOAD_OUTCOMES = Statement(
    "load_outcomes",
    """
    SELECT identity, data_hash, outcome, topic_id, partition, "offset" FROM sluice.processed_events
    WHERE identity = ANY ($1)
    """,
    ("uuid[]",),
)


def load_outcomes(session: Session, identities: Sequence[UUID]) -> dict[UUID, tuple[Any, ...]]:
    """Identity → (data hash, outcome, topic id, partition, offset) of the record it belongs to."""
    return {row[0]: row[1:] for row in session.run(LOAD_OUTCOMES, bare_array(identities))}


INSERT_IDENTITIES = Statement(
    "insert_identities",
    """
    INSERT INTO sluice.processed_events
        (identity, event_id, data_hash, outcome, topic, topic_id, partition, "offset")
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (identity) DO NOTHING
    """,
    ("uuid[]", "text[]", "uuid[]", "text[]", "text[]", "text[]", "int[]", "bigint[]"),
)


def insert_identities(session: Session, rows: Sequence[ProcessedRow]) -> None:
    """Remembers events. Raises RowsChanged if one became known meanwhile: then the fold saw too little."""
    if not rows:
        return
    columns = list(zip(*rows, strict=True))
    inserted = session.count(
        INSERT_IDENTITIES,
        bare_array(columns[0]),
        text_array(columns[1]),
        bare_array(columns[2]),
        bare_array(columns[3]),
        text_array(columns[4]),
        text_array(columns[5]),
        bare_array(columns[6]),
        bare_array(columns[7]),
    )
    if inserted != len(rows):
        raise RowsChanged(f"{len(rows) - inserted} identities became known meanwhile")


UPDATE_OUTCOMES = Statement(
    "update_outcomes",
    """
    UPDATE sluice.processed_events e SET outcome = d.outcome
    FROM unnest($1, $2, $3, $4, $5) AS d (identity, outcome, topic_id, partition, "offset")
    WHERE e.identity = d.identity
      -- Its own row: under the identity of a duplicate stands another record's.
      AND e.topic_id = d.topic_id AND e.partition = d.partition AND e."offset" = d."offset"
    """,
    ("uuid[]", "text[]", "text[]", "int[]", "bigint[]"),
)


def update_outcomes(session: Session, rows: Sequence[tuple[UUID, str, str, int, int]]) -> None:
    """What became of records later: (identity, outcome, topic id, partition, offset). May run twice."""
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
