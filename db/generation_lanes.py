"""`generation_lanes`: how far the generations that are not live are, and what they passed over."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from db.arrays import bare_array, text_array
from db.progress import Place
from db.projections import Fed
from db.session import Session, Statement

FOLDED = "folded"
PASSED = ("duplicate", "dead", "waiting", "conflict", "unknown")
"""Why a record is passed over: live did not apply it either."""

NOTHING_APPLIED = -1


class GenerationStep(NamedTuple):
    """How far a lane of a generation came, and what became of its records: `folded` or one of PASSED."""

    topic: str
    partition: int
    applied_offset: int
    counts: Mapping[str, int]


READ_FED_LANES = Statement(
    "read_fed_lanes",
    """
    SELECT projection, generation, topic, partition, applied_offset FROM sluice.generation_lanes
    WHERE queue = $1
    """,
    ("text",),
)


def read_fed_lanes(session: Session, queue: str) -> dict[tuple[str, int], dict[Place, int]]:
    """(projection, generation) → how far its lanes of one queue are. A lane without a row: nothing applied.

    Under the queue's lock it says who is in lockstep: only under that lock a lane gets there.
    """
    found: dict[tuple[str, int], dict[Place, int]] = {}
    for projection, generation, topic, partition, offset in session.run(READ_FED_LANES, queue):
        found.setdefault((projection, generation), {})[topic, partition] = offset
    return found


_COUNTERS = (FOLDED, *(f"passed_{why}" for why in PASSED))
_LIST = ", ".join(_COUNTERS)
_ARRAYS = ", ".join(f"${7 + i}" for i in range(len(_COUNTERS)))
_SUMS = ", ".join(f"{name} = l.{name} + excluded.{name}" for name in _COUNTERS)

ADVANCE_GENERATION = Statement(
    "advance_generation",
    f"""
    INSERT INTO sluice.generation_lanes AS l
        (projection, generation, queue, topic, partition, applied_offset, {_LIST})
    SELECT $1, $2, $3, d.topic, d.partition, d.applied_offset, {_LIST}
    FROM unnest($4, $5, $6, {_ARRAYS}) AS d (topic, partition, applied_offset, {_LIST})
    ORDER BY d.topic, d.partition
    ON CONFLICT (projection, generation, topic, partition, queue) DO UPDATE SET
        applied_offset = excluded.applied_offset, {_SUMS}
    """,
    ("text", "int", "text", "text[]", "int[]", "bigint[]", *["bigint[]"] * len(_COUNTERS)),
)


def advance_generation(
    session: Session, projection: str, generation: int, queue: str, steps: Sequence[GenerationStep]
) -> None:
    """Writes how far lanes came. Under the queue's lock, or that of the lane; never twice."""
    session.run(
        ADVANCE_GENERATION,
        projection,
        generation,
        queue,
        text_array(step.topic for step in steps),
        bare_array(step.partition for step in steps),
        bare_array(step.applied_offset for step in steps),
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
    """Locks lanes of a generation, at least these, and says how far each is; {}: there is no such generation.

    Who applies anything to a lane that is behind live holds its row: a chunk of the rebuild, or a redrive.
    """
    arrays = text_array(topic for topic, _ in places), bare_array(number for _, number in places)
    session.run(MAKE_LANES, projection, generation, queue, *arrays)
    rows = session.run(LOCK_LANES, projection, generation, queue, *arrays)
    return {(topic, partition): offset for topic, partition, offset in rows}


class LaneState(NamedTuple):
    """One lane of the current epoch: how far live and a generation are."""

    topic: str
    partition: int
    queue: str
    live: int
    generation: int


class LaneOffsets(NamedTuple):
    """How far live and the generation have applied one lane."""

    live: int
    generation: int


class PartitionStanding(NamedTuple):
    """What a rebuild of one partition has to know, in one snapshot."""

    fed: Fed
    is_live: bool
    paused: bool
    is_paced: bool
    is_compacted: bool
    topic_id: str
    entity: str
    epoch: int
    shards: int
    lanes: Mapping[str, LaneOffsets]
    """Queue → its lane of this partition; those that live has anything of."""


READ_PARTITION = Statement(
    "read_rebuilt_partition",
    """
    SELECT g.state, g.revision, g.has_been_live, p.live_generation = g.generation, g.paused,
           g.rate IS NOT NULL, g.compacted_topics @> to_jsonb($3), t.topic_id, t.entity, e.epoch, e.shards,
           l.queue, l.applied_offset, coalesce(k.applied_offset, -1)
    FROM sluice.generations g
    JOIN sluice.projections p ON p.projection = g.projection
    JOIN sluice.topics t ON t.topic = $3
    JOIN sluice.entities e ON e.entity = t.entity
    LEFT JOIN sluice.lane_progress l ON l.topic = $3 AND l.partition = $4 AND l.epoch = e.epoch
    LEFT JOIN sluice.generation_lanes k
        ON k.projection = $1 AND k.generation = $2 AND k.topic = $3 AND k.partition = $4 AND k.queue = l.queue
    WHERE g.projection = $1 AND g.generation = $2
    """,
    ("text", "int", "text", "int"),
)


def read_partition(
    session: Session, projection: str, generation: int, topic: str, partition: int
) -> PartitionStanding | None:
    """None: there is no such generation, or no such topic."""
    rows = session.run(READ_PARTITION, projection, generation, topic, partition)
    if not rows:
        return None
    first = rows[0]
    lanes = {row[11]: LaneOffsets(*row[12:]) for row in rows if row[11] is not None}
    return PartitionStanding._make([Fed(projection, generation, *first[:3]), *first[3:11], lanes])


TRY_REBUILD = Statement(
    "try_rebuild", "SELECT pg_try_advisory_lock(hashtext('sluice rebuild ' || $1), $2)", ("text", "int")
)
END_REBUILD = Statement(
    "end_rebuild", "SELECT pg_advisory_unlock(hashtext('sluice rebuild ' || $1), $2)", ("text", "int")
)


def try_rebuild(session: Session, what: str, partition: int) -> bool:
    """Whether this session is the only one at this partition; until `end_rebuild`, or until it ends."""
    ((held,),) = session.run(TRY_REBUILD, what, partition)
    return bool(held)


def end_rebuild(session: Session, what: str, partition: int) -> None:
    """Lets others at the partition."""
    session.run(END_REBUILD, what, partition)


READ_LANE_STATES = Statement(
    "read_lane_states",
    """
    SELECT l.topic, l.partition, l.queue, l.applied_offset, coalesce(g.applied_offset, -1)
    FROM sluice.lane_progress l
    JOIN sluice.topics t ON t.topic = l.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = l.epoch
    LEFT JOIN sluice.generation_lanes g
        ON g.projection = $1 AND g.generation = $2
       AND g.topic = l.topic AND g.partition = l.partition AND g.queue = l.queue
    ORDER BY l.topic, l.partition, l.queue
    """,
    ("text", "int"),
)


def read_lane_states(session: Session, projection: str, generation: int) -> list[LaneState]:
    """Every lane that live has anything of, in one snapshot."""
    return [LaneState(*row) for row in session.run(READ_LANE_STATES, projection, generation)]


READ_LAGGING = Statement(
    "read_lagging",
    """
    SELECT DISTINCT g.projection, g.generation, l.topic, l.partition
    FROM sluice.generations g
    JOIN sluice.projections p ON p.projection = g.projection AND p.live_generation <> g.generation
    CROSS JOIN sluice.lane_progress l
    JOIN sluice.topics t ON t.topic = l.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = l.epoch
    LEFT JOIN sluice.generation_lanes k
        ON k.projection = g.projection AND k.generation = g.generation
       AND k.topic = l.topic AND k.partition = l.partition AND k.queue = l.queue
    WHERE g.state IN ('building', 'ready', 'retired') AND NOT g.paused
      AND coalesce(k.applied_offset, -1) < l.applied_offset
    ORDER BY 1, 2, 3, 4
    """,
)


def read_lagging(session: Session) -> list[tuple[str, int, str, int]]:
    """(projection, generation, topic, partition) of all that a rebuild task has to do."""
    return [tuple(row) for row in session.run(READ_LAGGING)]


NOTE_READY = Statement(
    "note_ready",
    """
    UPDATE sluice.generations g SET state = 'ready', ready_at = now()
    WHERE g.projection = $1 AND g.generation = $2 AND g.state = 'building' AND NOT EXISTS (
        SELECT FROM sluice.lane_progress l
        JOIN sluice.topics t ON t.topic = l.topic
        JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = l.epoch
        LEFT JOIN sluice.generation_lanes k
            ON k.projection = $1 AND k.generation = $2
           AND k.topic = l.topic AND k.partition = l.partition AND k.queue = l.queue
        WHERE coalesce(k.applied_offset, -1) < l.applied_offset
    )
    """,
    ("text", "int"),
)


def note_ready(session: Session, projection: str, generation: int) -> bool:
    """The generation is `ready` if all its lanes have met live; whether that is news. May run twice."""
    return session.count(NOTE_READY, projection, generation) == 1


GIVE_LANES = Statement(
    "give_lanes",
    """
    INSERT INTO sluice.lane_progress (topic, partition, queue, epoch, applied_offset)
    SELECT p.topic, p.partition, e.entity || '.' || n, e.epoch, p.watermark - 1
    FROM sluice.partition_progress p
    JOIN sluice.topics t ON t.topic = p.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = p.epoch
    CROSS JOIN LATERAL generate_series(0, e.shards - 1) AS n
    WHERE p.watermark > 0
    ON CONFLICT (topic, partition, queue, epoch) DO NOTHING
    """,
)


def give_lanes(session: Session) -> None:
    """Every lane below a watermark has a row. Under the locks of all queues; may run twice.

    What lies below the watermark has its outcome, whatever lane it was in then: a generation has to read
    it in the lane it would be in now.
    """
    session.run(GIVE_LANES)


FOLLOW_LIVE = Statement(
    "follow_live",
    """
    INSERT INTO sluice.generation_lanes (projection, generation, topic, partition, queue, applied_offset)
    SELECT $1, $2, l.topic, l.partition, l.queue, l.applied_offset
    FROM sluice.lane_progress l
    JOIN sluice.topics t ON t.topic = l.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = l.epoch
    ON CONFLICT (projection, generation, topic, partition, queue)
        DO UPDATE SET applied_offset = excluded.applied_offset
    """,
    ("text", "int"),
)


def follow_live(session: Session, projection: str, generation: int) -> None:
    """A generation that was live until now is exactly where live is. Under the locks of all queues."""
    session.run(FOLLOW_LIVE, projection, generation)


INSERT_DEATHS = Statement(
    "insert_generation_deaths",
    """
    INSERT INTO sluice.generation_deaths
        (projection, generation, topic, partition, "offset", key, error_class, error_text)
    SELECT $1, $2, * FROM unnest($3, $4, $5, $6, $7, $8)
    ON CONFLICT DO NOTHING
    """,
    ("text", "int", "text[]", "int[]", "bigint[]", "text[]", "text[]", "text[]"),
)


class GenerationDeath(NamedTuple):
    """An event that live applied and a generation could not."""

    topic: str
    partition: int
    offset: int
    key: str | None
    error_class: str
    error_text: str


def insert_deaths(
    session: Session, projection: str, generation: int, deaths: Sequence[GenerationDeath]
) -> None:
    """Remembers them. May run twice."""
    if deaths:
        topics, partitions, offsets, keys, classes, texts = zip(*deaths, strict=True)
        session.run(
            INSERT_DEATHS,
            projection,
            generation,
            text_array(topics),
            bare_array(partitions),
            bare_array(offsets),
            text_array(keys),
            text_array(classes),
            text_array(texts),
        )


READ_DEATHS = Statement(
    "read_generation_deaths",
    """
    SELECT topic, partition, "offset", key, error_class, error_text FROM sluice.generation_deaths
    WHERE projection = $1 AND generation = $2 ORDER BY died_at, topic, partition, "offset" LIMIT $3
    """,
    ("text", "int", "int"),
)
COUNT_DEATHS = Statement(
    "count_generation_deaths",
    "SELECT count(*) FROM sluice.generation_deaths WHERE projection = $1 AND generation = $2",
    ("text", "int"),
)


def read_deaths(
    session: Session, projection: str, generation: int, limit: int
) -> tuple[int, list[GenerationDeath]]:
    """How many there are, and the first of them."""
    ((count,),) = session.run(COUNT_DEATHS, projection, generation)
    return count, [GenerationDeath(*row) for row in session.run(READ_DEATHS, projection, generation, limit)]


READ_PASSED = Statement(
    "read_passed",
    f"""
    SELECT {", ".join(f"coalesce(sum({name}), 0)::bigint" for name in _COUNTERS)}
    FROM sluice.generation_lanes WHERE projection = $1 AND generation = $2
    """,
    ("text", "int"),
)


def read_passed(session: Session, projection: str, generation: int) -> dict[str, int]:
    """Records per what became of them: `folded`, and each of PASSED."""
    (row,) = session.run(READ_PASSED, projection, generation)
    return dict(zip((FOLDED, *PASSED), row, strict=True))
