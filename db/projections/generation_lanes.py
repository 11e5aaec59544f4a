"""`generation_offsets`: offsets of generations that are not live, and counters of their records."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.newest_lanes import walk_lanes
from sluice.db.projections.generations import SyncedGeneration
from sluice.db.projections.live_lanes import LIVE_LANES
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

    `before`: the offset that was read under the lock of the queue or of the lane; None if the lane has no
    row. A result is `folded` (applied) or in PASSED.
    """

    topic: str
    partition: int
    before: int | None
    applied_offset: int
    counts: Mapping[str, int]


_LANES = walk_lanes(
    "generation_offsets",
    {"projection": "g.projection", "generation": "g.generation", "queue": "$1"},
    "FROM unnest($2, $3) AS g (projection, generation)",
)
READ_SYNCED_LANES = Statement(
    "read_synced_lanes",
    f"""
    WITH RECURSIVE {_LANES}
    SELECT (l.lane).projection, (l.lane).generation, (l.lane).topic, (l.lane).partition,
           (l.lane).applied_offset
    FROM l WHERE (l.lane).topic IS NOT NULL
    """,
    ("text", "text[]", "int[]"),
)


def read_synced_lanes(
    session: Session, queue: str, generations: Sequence[SyncedGeneration]
) -> dict[tuple[str, int], dict[Place, int]]:
    """Returns (projection, generation) → lane → offset, for the lanes of one queue.

    If a lane is missing, no record of it is applied. A lane can catch up with the live offset only under the
    queue's lock. Therefore the result is reliable under this lock.
    """
    found: dict[tuple[str, int], dict[Place, int]] = {}
    names = text_array(one.projection for one in generations)
    numbers = bare_array(one.generation for one in generations)
    for projection, generation, topic, partition, offset in session.run(
        READ_SYNCED_LANES, queue, names, numbers
    ):
        found.setdefault((projection, generation), {})[topic, partition] = offset
    return found


_COUNTERS = (FOLDED, *(f"passed_{why}" for why in PASSED))
_SUMS = ", ".join(f"{name} = {name} + ${9 + i}" for i, name in enumerate(_COUNTERS))

# One statement per lane, because a join of several lanes would read all versions.
ADVANCE_GENERATION = Statement(
    "advance_generation",
    f"""
    UPDATE sluice.generation_offsets SET
        applied_offset = $7,
        filled_xid = CASE WHEN $8 THEN pg_current_xact_id()::text::bigint ELSE filled_xid END, {_SUMS}
    WHERE projection = $1 AND generation = $2 AND queue = $3 AND topic = $4 AND partition = $5
      AND applied_offset = $6
    """,
    ("text", "int", "text", "text", "int", "bigint", "bigint", "boolean", *["bigint"] * len(_COUNTERS)),
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
    """Writes the offsets of lanes, before the next statement. Not idempotent.

    Requires the lock of the queue or of the lane. `catches_up`: True if this transaction writes events into
    this generation, but not into the live generation.
    """
    lane = projection, generation, queue
    _make_lanes(session, *lane, [(step.topic, step.partition) for step in steps if step.before is None])
    for step in sorted(steps):
        session.defer_statement(
            ADVANCE_GENERATION,
            *lane,
            step.topic,
            step.partition,
            NOTHING_APPLIED if step.before is None else step.before,
            step.applied_offset,
            catches_up,
            *(step.counts.get(result, 0) for result in (FOLDED, *PASSED)),
        )


# A trigger of `generation_lanes` stores the row in `generation_offsets`, unless the lane has a row.
MAKE_LANES = Statement(
    "make_generation_lanes",
    """
    INSERT INTO sluice.generation_lanes (projection, generation, topic, partition, queue, applied_offset)
    SELECT g.projection, g.generation, d.topic, d.partition, $3, -1
    FROM unnest($4, $5) AS d (topic, partition)
    JOIN sluice.generations g ON g.projection = $1 AND g.generation = $2
    ORDER BY d.topic, d.partition
    """,
    ("text", "int", "text", "text[]", "int[]"),
)
# If the newest version was changed meanwhile, Postgres locks and returns the version that replaced it.
LOCK_LANE = Statement(
    "lock_generation_lane",
    """
    SELECT applied_offset FROM sluice.generation_offsets
    WHERE projection = $1 AND generation = $2 AND queue = $3 AND topic = $4 AND partition = $5
    ORDER BY applied_offset DESC LIMIT 1 FOR UPDATE
    """,
    ("text", "int", "text", "text", "int"),
)


def _make_lanes(
    session: Session, projection: str, generation: int, queue: str, places: Sequence[Place]
) -> None:
    if places:
        arrays = text_array(topic for topic, _ in places), bare_array(number for _, number in places)
        session.run(MAKE_LANES, projection, generation, queue, *arrays)


def lock_lanes(
    session: Session, projection: str, generation: int, queue: str, places: Sequence[Place]
) -> dict[Place, int]:
    """Locks these lanes of a generation. Returns their offsets; {} if the generation is unknown.

    A chunk of a rebuild, or a redrive, keeps the row of a lagging lane locked while it applies records.
    """
    lane = projection, generation, queue
    held: dict[Place, int] = {}
    for is_made in (False, True):
        for place in sorted(set(places) - held.keys()):
            for (offset,) in session.run(LOCK_LANE, *lane, *place):
                held[place] = offset
        if not is_made:
            _make_lanes(session, *lane, [place for place in places if place not in held])
    return held


LOCK_QUEUE_LANES = Statement(
    "lock_queue_lanes",
    """
    SELECT FROM sluice.generation_offsets WHERE projection = $1 AND generation = $2 AND queue = $3
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
    UPDATE sluice.generation_offsets SET filled_xid = pg_current_xact_id()::text::bigint
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
    """,
    ("text", "int", "text", "text[]", "int[]", "bigint[]"),
)
KEEP_LIVE_PLACES = Statement(
    "keep_live_places",
    f"""
    WITH RECURSIVE {LIVE_LANES}
    INSERT INTO sluice.generation_lanes (projection, generation, topic, partition, queue, applied_offset)
    SELECT $1, $2, topic, partition, queue, applied_offset FROM live WHERE $3 IS NULL OR queue = $3
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
    FROM sluice.generation_offsets WHERE projection = $1 AND generation = $2
    """,
    ("text", "int"),
)


def read_passed(session: Session, projection: str, generation: int) -> dict[str, int]:
    """Returns result → the number of records, for `folded` and each result in PASSED."""
    (row,) = session.run(READ_PASSED, projection, generation)
    return dict(zip((FOLDED, *PASSED), row, strict=True))
