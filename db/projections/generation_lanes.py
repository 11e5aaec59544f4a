"""`generation_lanes`: offsets of generations that are not live, and counters of their records."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.records import Outcome
from sluice.db.values import bare_array, text_array
from sluice.runtime.place import Place

FOLDED = "folded"
UNKNOWN = "unknown"  # no identity of the record is stored
PASSED = (Outcome.DUPLICATE, Outcome.DEAD, Outcome.WAITING, Outcome.CONFLICT, UNKNOWN, Outcome.ERASED)
"""Reasons to pass over a record. The live generation did not apply such a record either."""

NOTHING_APPLIED = -1


class GenerationStep(NamedTuple):
    """A lane's new offset, and its numbers of records by result.

    A result is `folded` (applied) or in PASSED.
    """

    topic: str
    partition: int
    applied_offset: int
    counts: Mapping[str, int]


READ_SYNCED_LANES = Statement(
    "read_synced_lanes",
    """
    SELECT projection, generation, topic, partition, applied_offset FROM sluice.generation_lanes
    WHERE queue = $1
    """,
    ("text",),
)


def read_synced_lanes(session: Session, queue: str) -> dict[tuple[str, int], dict[Place, int]]:
    """Returns (projection, generation) → lane → offset, for the lanes of one queue.

    If a lane is missing, no record of it is applied. A lane can catch up with the live offset only under the
    queue's lock. Therefore the result is reliable under this lock.
    """
    found: dict[tuple[str, int], dict[Place, int]] = {}
    for projection, generation, topic, partition, offset in session.run(READ_SYNCED_LANES, queue):
        found.setdefault((projection, generation), {})[topic, partition] = offset
    return found


_COUNTERS = (FOLDED, *(f"passed_{why}" for why in PASSED))
_LIST = ", ".join(_COUNTERS)
_ARRAYS = ", ".join(f"${8 + i}" for i in range(len(_COUNTERS)))
_SUMS = ", ".join(f"{name} = l.{name} + excluded.{name}" for name in _COUNTERS)

ADVANCE_GENERATION = Statement(
    "advance_generation",
    f"""
    INSERT INTO sluice.generation_lanes AS l
        (projection, generation, queue, topic, partition, applied_offset, filled_xid, {_LIST})
    SELECT $1, $2, $3, d.topic, d.partition, d.applied_offset,
        CASE WHEN $7 THEN pg_current_xact_id()::text::bigint END, {_LIST}
    FROM unnest($4, $5, $6, {_ARRAYS}) AS d (topic, partition, applied_offset, {_LIST})
    ORDER BY d.topic, d.partition
    ON CONFLICT (projection, generation, topic, partition, queue) DO UPDATE SET
        applied_offset = excluded.applied_offset,
        filled_xid = coalesce(excluded.filled_xid, l.filled_xid), {_SUMS}
    """,
    ("text", "int", "text", "text[]", "int[]", "bigint[]", "boolean", *["bigint[]"] * len(_COUNTERS)),
)


def advance_generation(
    session: Session,
    projection: str,
    generation: int,
    queue: str,
    steps: Sequence[GenerationStep],
    *,
    catches_up: bool = False,
) -> None:
    """Writes the offsets of lanes. Requires the lock of the queue or of the lane. Not idempotent.

    `catches_up`: True if this transaction writes events into this generation, but not into the live
    generation.
    """
    session.run(
        ADVANCE_GENERATION,
        projection,
        generation,
        queue,
        text_array(step.topic for step in steps),
        bare_array(step.partition for step in steps),
        bare_array(step.applied_offset for step in steps),
        catches_up,
        bare_array(step.counts.get(FOLDED, 0) for step in steps),
        *(bare_array(step.counts.get(why, 0) for step in steps) for why in PASSED),
    )


MAKE_LANES = Statement(
    "make_generation_lanes",
    """
    INSERT INTO sluice.generation_lanes (projection, generation, topic, partition, queue, applied_offset)
    SELECT g.projection, g.generation, d.topic, d.partition, $3, -1
    FROM unnest($4, $5) AS d (topic, partition)
    JOIN sluice.generations g ON g.projection = $1 AND g.generation = $2
    ORDER BY d.topic, d.partition
    ON CONFLICT DO NOTHING
    """,
    ("text", "int", "text", "text[]", "int[]"),
)
LOCK_LANES = Statement(
    "lock_generation_lanes",
    """
    SELECT l.topic, l.partition, l.applied_offset
    FROM sluice.generation_lanes l
    WHERE l.projection = $1 AND l.generation = $2 AND l.queue = $3
      AND l.topic = ANY ($4) AND l.partition = ANY ($5)
    ORDER BY l.topic, l.partition
    FOR UPDATE
    """,
    ("text", "int", "text", "text[]", "int[]"),
)


def lock_lanes(
    session: Session, projection: str, generation: int, queue: str, places: Sequence[Place]
) -> dict[Place, int]:
    """Locks at least these lanes of a generation. Returns their offsets; {} if the generation is unknown.

    A chunk of a rebuild, or a redrive, keeps the row of a lagging lane locked while it applies records.
    """
    arrays = text_array(topic for topic, _ in places), bare_array(number for _, number in places)
    session.run(MAKE_LANES, projection, generation, queue, *arrays)
    rows = session.run(LOCK_LANES, projection, generation, queue, *arrays)
    return {(topic, partition): offset for topic, partition, offset in rows}


LOCK_QUEUE_LANES = Statement(
    "lock_queue_lanes",
    """
    SELECT FROM sluice.generation_lanes WHERE projection = $1 AND generation = $2 AND queue = $3
    ORDER BY topic, partition FOR UPDATE
    """,
    ("text", "int", "text"),
)


def lock_queue_lanes(session: Session, projection: str, generation: int, queue: str) -> None:
    """Locks one queue's lanes against chunks of a rebuild until the transaction ends."""
    session.run(LOCK_QUEUE_LANES, projection, generation, queue)


NOTE_FILLED = Statement(
    "note_filled",
    """
    UPDATE sluice.generation_lanes SET filled_xid = pg_current_xact_id()::text::bigint
    WHERE projection = $1 AND generation = $2 AND queue = $3
    """,
    ("text", "int", "text"),
)


def note_filled(session: Session, projection: str, generation: int, queue: str) -> None:
    """Notes that this transaction writes events of a queue only into this generation. Idempotent.

    Snapshots that are older than this transaction do not contain the written rows. Call it after
    `lock_queue_lanes`.
    """
    session.run(NOTE_FILLED, projection, generation, queue)


KEEP_PLACES = Statement(
    "keep_generation_places",
    """
    INSERT INTO sluice.generation_lanes (projection, generation, topic, partition, queue, applied_offset)
    SELECT $1, $2, d.topic, d.partition, $3, d.applied_offset
    FROM unnest($4, $5, $6) AS d (topic, partition, applied_offset)
    ORDER BY d.topic, d.partition
    ON CONFLICT (projection, generation, topic, partition, queue) DO NOTHING
    """,
    ("text", "int", "text", "text[]", "int[]", "bigint[]"),
)
KEEP_LIVE_PLACES = Statement(
    "keep_live_places",
    """
    INSERT INTO sluice.generation_lanes (projection, generation, topic, partition, queue, applied_offset)
    SELECT $1, $2, l.topic, l.partition, l.queue, l.applied_offset
    FROM sluice.lane_offsets l
    JOIN sluice.topics t ON t.topic = l.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = l.epoch
    WHERE $3 IS NULL OR l.queue = $3
    ON CONFLICT (projection, generation, topic, partition, queue) DO NOTHING
    """,
    ("text", "int", "text"),
)


def keep_places(
    session: Session, projection: str, generation: int, queue: str, places: Mapping[Place, int]
) -> None:
    """Stores the offsets of those lanes of a generation that have no row. Idempotent.

    Requires the queue's lock.
    """
    if places:
        topics, partitions = zip(*places, strict=True)
        values = text_array(topics), bare_array(partitions), bare_array(places.values())
        session.run(KEEP_PLACES, projection, generation, queue, *values)


def keep_live_places(session: Session, projection: str, generation: int, queue: str | None) -> None:
    """Stores the live offsets of those lanes that have no row, for one queue or all queues (None).

    For a generation that was live until it was stopped: a lane without a row has received events until now.
    Like `keep_places`, idempotent under the locks of the queues.
    """
    session.run(KEEP_LIVE_PLACES, projection, generation, queue)


READ_PASSED = Statement(
    "read_passed",
    f"""
    SELECT {", ".join(f"coalesce(sum({name}), 0)::bigint" for name in _COUNTERS)}
    FROM sluice.generation_lanes WHERE projection = $1 AND generation = $2
    """,
    ("text", "int"),
)


def read_passed(session: Session, projection: str, generation: int) -> dict[str, int]:
    """Returns result → the number of records, for `folded` and each result in PASSED."""
    (row,) = session.run(READ_PASSED, projection, generation)
    return dict(zip((FOLDED, *PASSED), row, strict=True))
