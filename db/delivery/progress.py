"""Statements of the bridge about registered topics, applied offsets of lanes, and watermarks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sluice.db.connection import QUEUE_PLANS, Session, Statement
from sluice.db.delivery.dedup_modes import insert_first_starts
from sluice.db.values import bare_array, text_array
from sluice.runtime.place import Place

# Watermarks must be written on the same state from which they were computed. If a failover to an older state
# happened in between, the write would raise a watermark above records that are not applied in that state.
ONE_SNAPSHOT = "ISOLATION LEVEL REPEATABLE READ"


class ProgressSession(Session):
    """A session for frequent reads of the progress.

    With the planner's own choice, a read of a few lanes would read all versions of all lanes.
    """

    def __init__(self, database_url: str, *, application_name: str) -> None:
        super().__init__(database_url, application_name=application_name, plans=QUEUE_PLANS)


@dataclass(frozen=True)
class Assignment:
    """The state of a partition in one snapshot. `watermark` is None if the partition has no row yet."""

    topic_id: str
    entity: str
    epoch: int
    shards: int
    partition_epoch: int | None
    watermark: int | None
    applied: Mapping[str, int] = field(default_factory=dict)
    """Queue → the applied offset of the partition's lane of this queue, in the current epoch."""

    @property
    def routing(self) -> tuple[str, int]:
        """Returns topic id and epoch, which `sluice accept` changes."""
        return self.topic_id, self.epoch


@dataclass(frozen=True)
class TopicStart:
    """A topic that is read for the first time, with the initial shards of its entity type."""

    topic: str
    topic_id: str
    entity: str
    shards: int
    starts: Mapping[int, int]
    """Partition → the offset of the first record that is read."""
    dedup: str = "id"


# One row per partition, with its lanes as arrays. A row per lane costs several times as much at both ends.
_ASSIGNMENTS = """
    SELECT t.topic, a.partition, t.topic_id, t.entity, e.epoch, e.shards, p.epoch, p.watermark,
           l.queues, l.offsets
    FROM unnest($1, $2) AS a (topic, partition)
    JOIN sluice.topics t ON t.topic = a.topic
    JOIN sluice.entities e ON e.entity = t.entity
    -- Each row is read as the newest of its key, so that no old version is read.
    LEFT JOIN LATERAL (
        SELECT w.epoch, w.watermark FROM sluice.partition_watermarks w
        WHERE w.topic = a.topic AND w.partition = a.partition
        ORDER BY w.epoch DESC, w.watermark DESC LIMIT 1
    ) p ON true
    -- Rows of older epochs are kept only for their counters.
    CROSS JOIN LATERAL (
        SELECT array_agg(q.queue) AS queues, array_agg(o.applied_offset) AS offsets
        FROM {queues} CROSS JOIN LATERAL (
            SELECT o.applied_offset FROM sluice.lane_offsets o
            WHERE o.queue = q.queue AND o.epoch = e.epoch
              AND o.topic = a.topic AND o.partition = a.partition
            ORDER BY o.applied_offset DESC LIMIT 1
        ) o
    ) l
    """
_ALL_QUEUES = "(SELECT e.entity || '.' || n AS queue FROM generate_series(0, e.shards - 1) AS n) q"
READ_ASSIGNMENTS = Statement("read_assignments", _ASSIGNMENTS.format(queues=_ALL_QUEUES), ("text[]", "int[]"))
READ_LANES = Statement(
    "read_assigned_lanes",
    _ASSIGNMENTS.format(queues="unnest($3) AS q (queue)"),
    ("text[]", "int[]", "text[]"),
)


def read_assignments(
    session: Session, places: Iterable[Place], queues: Iterable[str] | None = None
) -> dict[Place, Assignment]:
    """Reads the state of partitions in ONE statement. Omits partitions of topics without a row.

    `queues`: the queues whose lanes are read; by default, all lanes are read.

    Several statements could read different states, for example a watermark from before a failover and lanes
    from after the failover. Then records would be lost.
    """
    wanted = list(places)
    if not wanted:
        return {}
    arrays = [text_array(topic for topic, _ in wanted), bare_array(number for _, number in wanted)]
    if queues is None:
        rows = session.run(READ_ASSIGNMENTS, *arrays)
    else:
        rows = session.run(READ_LANES, *arrays, text_array(queues))
    found: dict[Place, Assignment] = {}
    for topic, partition, topic_id, entity, epoch, shards, own_epoch, watermark, names, offsets in rows:
        applied = dict(zip(names or (), offsets or (), strict=True))
        found[topic, partition] = Assignment(topic_id, entity, epoch, shards, own_epoch, watermark, applied)
    return found


READ_REACH = Statement(
    "read_reach",
    """
    SELECT p.topic, p.partition, greatest(p.watermark - 1, max(l.applied_offset))
    FROM sluice.partition_watermarks p
    LEFT JOIN sluice.lane_offsets l
        ON l.topic = p.topic AND l.partition = p.partition AND l.epoch = p.epoch
    GROUP BY p.topic, p.partition, p.watermark
    """,
)


def read_reach(session: Session) -> dict[Place, int]:
    """Returns partition → the highest offset with an outcome.

    Some records below this offset may have no outcome.
    """
    return {(topic, partition): offset for topic, partition, offset in session.run(READ_REACH)}


READ_EPOCHS = Statement("read_epochs", "SELECT entity, epoch FROM sluice.entities")


def read_epochs(session: Session) -> dict[str, int]:
    """Returns entity type → its current epoch."""
    return dict(session.run(READ_EPOCHS))


READ_HALTED = Statement("read_halted", "SELECT queue FROM sluice.queues WHERE halted_reason IS NOT NULL")


def read_halted(session: Session) -> frozenset[str]:
    """Returns the halted queues."""
    return frozenset(queue for (queue,) in session.run(READ_HALTED))


RAISE_WATERMARKS = Statement(
    "raise_watermarks",
    """
    WITH d AS MATERIALIZED (
        SELECT d.*, (
            SELECT w.watermark FROM sluice.partition_watermarks w
            WHERE w.topic = d.topic AND w.partition = d.partition AND w.epoch = d.epoch
            ORDER BY w.watermark DESC LIMIT 1
        ) AS before
        FROM unnest($1, $2, $3, $4) AS d (topic, partition, epoch, watermark)
    )
    UPDATE sluice.partition_watermarks p SET watermark = d.watermark
    FROM d
    -- With ANY, the topic cannot be compared by a join of the whole index, which would read all versions.
    WHERE p.topic = ANY (ARRAY[d.topic]) AND p.partition = d.partition
      -- Skips other epochs. Never lowers a watermark: a bridge may not know yet that it lost the partition.
      AND p.epoch = d.epoch AND p.watermark = d.before AND d.before < d.watermark
    """,
    ("text[]", "int[]", "int[]", "bigint[]"),
)


def raise_watermarks(session: Session, watermarks: Mapping[Place, tuple[int, int]]) -> None:
    """Raises watermarks, which are given as (epoch, watermark). Skips partitions in another epoch.

    Idempotent.
    """
    if not watermarks:
        return
    # All bridges use the same order, so that they cannot deadlock.
    places = sorted(watermarks)
    session.run(
        RAISE_WATERMARKS,
        text_array(topic for topic, _ in places),
        bare_array(partition for _, partition in places),
        bare_array(watermarks[place][0] for place in places),
        bare_array(watermarks[place][1] for place in places),
    )


READ_ROUTING = Statement(
    "read_routing", "SELECT shards, epoch FROM sluice.entities WHERE entity = $1", ("text",)
)


def read_routing(session: Session, entity: str) -> tuple[int, int] | None:
    """Returns (shards, epoch) of an entity type; None if the entity type has no row."""
    rows = session.run(READ_ROUTING, entity)
    return (int(rows[0][0]), int(rows[0][1])) if rows else None


INSERT_ENTITY = Statement(
    "insert_entity",
    "INSERT INTO sluice.entities (entity, shards) VALUES ($1, $2) ON CONFLICT (entity) DO NOTHING",
    ("text", "int"),
)
# Makes registrations and re-routings of an entity type wait for each other. Otherwise a registration could
# write rows of an old epoch, which no worker would serve.
LOCK_ENTITY = Statement(
    "lock_entity", "SELECT shards FROM sluice.entities WHERE entity = $1 FOR UPDATE", ("text",)
)
# The names here and in READ_ASSIGNMENTS must equal those of `sluice.tasks.events.routing.queue_name`. A test
# compares them.
INSERT_QUEUES = Statement(
    "insert_queues",
    """
    INSERT INTO sluice.queues (queue, entity)
    SELECT e.entity || '.' || n, e.entity
    FROM sluice.entities e, generate_series(0, e.shards - 1) AS n
    WHERE e.entity = $1
    ON CONFLICT (queue) DO NOTHING
    """,
    ("text",),
)
INSERT_TOPIC = Statement(
    "insert_topic",
    """
    INSERT INTO sluice.topics (topic, topic_id, entity, dedup) VALUES ($1, $2, $3, $4)
    ON CONFLICT (topic) DO NOTHING
    """,
    ("text", "text", "text", "text"),
)
INSERT_PARTITIONS = Statement(
    "insert_partitions",
    """
    INSERT INTO sluice.partition_watermarks (topic, partition, epoch, watermark)
    SELECT t.topic, d.partition, e.epoch, d.watermark
    FROM unnest($2, $3) AS d (partition, watermark)
    JOIN sluice.topics t ON t.topic = $1
    JOIN sluice.entities e ON e.entity = t.entity
    WHERE NOT EXISTS (
        SELECT FROM sluice.partition_watermarks w WHERE w.topic = $1 AND w.partition = d.partition
    )
    """,
    ("text", "int[]", "bigint[]"),
)


def register_entity(session: Session, entity: str, shards: int) -> int:
    """Inserts missing rows of an entity type and its queues. Returns the current shard count.

    `shards` is used only if the entity type is new. Idempotent.
    """
    with session.transaction():
        return _register_entity(session, entity, shards)


def register_topic(session: Session, start: TopicStart) -> None:
    """Inserts missing rows of a topic, its entity type, queues and partitions. Existing rows are kept.

    `starts` and `dedup` are used only if the topic has no row yet. A partition that is added later starts at
    offset 0, so that no record is skipped. If several bridges call this at the same time, the values of the
    first bridge are stored.
    """
    with session.transaction():
        _register_entity(session, start.entity, start.shards)
        new = (start.topic, start.topic_id, start.entity, start.dedup)
        first_seen = session.count(INSERT_TOPIC, *new) == 1
        numbers = sorted(start.starts)
        insert_partitions(
            session, start.topic, {number: start.starts[number] if first_seen else 0 for number in numbers}
        )
        insert_first_starts(session, start.topic)


def insert_partitions(session: Session, topic: str, starts: Mapping[int, int]) -> None:
    """Inserts missing rows of a topic's partitions. `starts`: partition → watermark. Idempotent."""
    session.run(INSERT_PARTITIONS, topic, bare_array(starts), bare_array(starts.values()))


def _register_entity(session: Session, entity: str, shards: int) -> int:
    session.run(INSERT_ENTITY, entity, shards)
    (found,) = session.run(LOCK_ENTITY, entity)
    session.run(INSERT_QUEUES, entity)
    return int(found[0])


READ_QUEUE_NAMES = Statement("read_queue_names", "SELECT queue FROM sluice.queues ORDER BY queue")


def read_queue_names(session: Session) -> list[str]:
    """Returns all queues of all entity types."""
    return [queue for (queue,) in session.run(READ_QUEUE_NAMES)]
