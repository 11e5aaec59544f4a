"""Stores the events that a generation contains, and the positions in the log where a rebuild found them.

`generation_spans`: events that a rebuild read at the offset at which a worker first applied them.
`generation_identities`: events that a rebuild read at another offset, or that a redrive wrote.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from sluice.db.connection import Session, Statement
from sluice.db.values import bare_array, text_array
from sluice.runtime.place import Place


class Known(NamedTuple):
    """The stored identity of an event. The position is that of the record that a worker applied first."""

    data_hash: UUID
    outcome: str
    topic_id: str
    partition: int
    offset: int
    is_noted: bool
    """True if the generation contains the event from another position in the log, or from a redrive."""


# A subquery reads the row of the generation, because a join would hash the whole table for each chunk.
LOAD_KNOWN = Statement(
    "load_known",
    """
    SELECT e.identity, e.data_hash, e.outcome, e.topic_id, e.partition, e."offset",
           coalesce((SELECT true FROM sluice.generation_identities i
                     WHERE i.projection = $1 AND i.generation = $2 AND i.identity = e.identity), false)
    FROM sluice.processed_events e
    WHERE e.identity = ANY ($3)
    """,
    ("text", "int", "uuid[]"),
)


def load_known(
    session: Session, projection: str, generation: int, identities: Sequence[UUID]
) -> dict[UUID, Known]:
    """Returns the stored identities, for a rebuild. Requires the lane's lock."""
    rows = session.run(LOAD_KNOWN, projection, generation, bare_array(identities))
    return {row[0]: Known(*row[1:]) for row in rows}


INSERT_SPAN = Statement(
    "insert_generation_span",
    """
    INSERT INTO sluice.generation_spans
        (projection, generation, topic, partition, queue, after_offset, through_offset, found)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    """,
    ("text", "int", "text", "int", "text", "bigint", "bigint", "bigint[]"),
)


class Span(NamedTuple):
    """A range of a lane that a rebuild read: the offsets in (after, through]."""

    place: Place
    queue: str
    after: int
    through: int


def insert_span(session: Session, projection: str, generation: int, span: Span, found: Sequence[int]) -> None:
    """Notes a range that was read, and the offsets in the range at which a worker first applied an event.

    Requires the lane's lock. Not idempotent.
    """
    session.run(
        INSERT_SPAN,
        projection,
        generation,
        *span.place,
        span.queue,
        span.after,
        span.through,
        bare_array(found),
    )


INSERT_IDENTITIES = Statement(
    "insert_generation_identities",
    """
    INSERT INTO sluice.generation_identities (projection, generation, identity)
    SELECT DISTINCT $1, $2, identity FROM unnest($3) AS d (identity) ORDER BY identity
    ON CONFLICT DO NOTHING RETURNING identity
    """,
    ("text", "int", "uuid[]"),
)


def note_identities(
    session: Session, projection: str, generation: int, identities: Sequence[UUID]
) -> frozenset[UUID]:
    """Notes events that the generation applies now. Returns the events that were not noted before."""
    if not identities:
        return frozenset()
    rows = session.run(INSERT_IDENTITIES, projection, generation, bare_array(identities))
    return frozenset(identity for (identity,) in rows)


class Found(NamedTuple):
    """The notes of a generation about an event. A worker first applied this event at a given offset."""

    is_noted: bool
    was_there: bool | None
    """True if a rebuild found the event at that offset; None if no rebuild has read that offset."""


FIND_EVENTS = Statement(
    "find_generation_events",
    """
    SELECT d.identity,
           coalesce((SELECT true FROM sluice.generation_identities i
                     WHERE i.projection = $1 AND i.generation = $2 AND i.identity = d.identity), false),
           (SELECT CASE WHEN s.after_offset < d."offset" THEN d."offset" = ANY (s.found) END
            FROM sluice.generation_spans s
            WHERE s.projection = $1 AND s.generation = $2 AND s.topic = d.topic AND s.partition = d.partition
              AND s.queue = $3 AND s.through_offset >= d."offset"
            ORDER BY s.through_offset LIMIT 1)
    FROM unnest($4, $5, $6, $7) AS d (identity, topic, partition, "offset")
    """,
    ("text", "int", "text", "uuid[]", "text[]", "int[]", "bigint[]"),
)


def find_events(
    session: Session,
    projection: str,
    generation: int,
    queue: str,
    events: Iterable[tuple[UUID, str, int, int]],
) -> dict[UUID, Found]:
    """Returns the notes of a generation about events.

    Each event is given as (identity, topic, partition, offset) of the record that a worker first applied.
    """
    identities, topics, partitions, offsets = zip(*events, strict=True)
    rows = session.run(
        FIND_EVENTS,
        projection,
        generation,
        queue,
        bare_array(identities),
        text_array(topics),
        bare_array(partitions),
        bare_array(offsets),
    )
    return {identity: Found(is_noted, was_there) for identity, is_noted, was_there in rows}
