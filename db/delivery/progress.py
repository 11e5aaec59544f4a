"""Statements of the bridge: registered topics, applied offsets of lanes, watermarks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sluice.db.connection import Session, Statement
from sluice.db.values import bare_array, text_array
from sluice.runtime.place import Place

# The write below must use the state that was read. After a failover in between, the write would raise the
# watermark of an older state above records that are not applied there.
ONE_SNAPSHOT = "ISOLATION LEVEL REPEATABLE READ"


@dataclass(frozen=True)
class Assignment:
    """The state of a partition in one snapshot. `watermark` is None before it has a row."""

    topic_id: str
    entity: str
    epoch: int
    shards: int
    partition_epoch: int | None
    watermark: int | None
    applied: Mapping[str, int] = field(default_factory=dict)
    """Queue → applied offset of its lane in the current epoch."""

    @property
    def routing(self) -> tuple[str, int]:
        """Returns topic id and epoch, which `sluice accept` changes."""
        return self.topic_id, self.epoch


@dataclass(frozen=True)
class TopicStart:
    """A topic that is read for the first time: its id, its entity type with initial shards, start offsets."""

    topic: str
    topic_id: str
    entity: str
    shards: int
    starts: Mapping[int, int]
    """Partition → offset of the first record that counts."""


READ_ASSIGNMENTS = Statement(
    "read_assignments",
    """
    SELECT t.topic, a.partition, t.topic_id, t.entity, e.epoch, e.shards, p.epoch, p.watermark,
           l.queue, l.applied_offset
    FROM unnest($1, $2) AS a (topic, partition)
    JOIN sluice.topics t ON t.topic = a.topic
    JOIN sluice.entities e ON e.entity = t.entity
    LEFT JOIN sluice.partition_progress p ON p.topic = a.topic AND p.partition = a.partition
    -- Rows of older epochs are kept for their counters, which count other records.
    LEFT JOIN sluice.lane_progress l
        ON l.topic = a.topic AND l.partition = a.partition AND l.epoch = e.epoch
    """,
    ("text[]", "int[]"),
)


def read_assignments(session: Session, places: Iterable[Place]) -> dict[Place, Assignment]:
    """Reads the state of partitions in ONE statement. Omits partitions of topics without a row.

    Several statements could read different states: a watermark from before a failover together with lanes
    from after it would lose records.
    """
    wanted = list(places)
    rows = session.run(
        READ_ASSIGNMENTS, text_array(topic for topic, _ in wanted), bare_array(number for _, number in wanted)
    )
    found: dict[Place, Assignment] = {}
    applied: dict[Place, dict[str, int]] = {}
    for topic, partition, topic_id, entity, epoch, shards, own_epoch, watermark, queue, offset in rows:
        place = (topic, partition)
        lanes = applied.setdefault(place, {})
        if queue is not None:
            lanes[queue] = offset
        if place not in found:
            found[place] = Assignment(topic_id, entity, epoch, shards, own_epoch, watermark, lanes)
    return found


READ_REACH = Statement(
    "read_reach",
    """
    SELECT p.topic, p.partition, greatest(p.watermark - 1, max(l.applied_offset))
    FROM sluice.partition_progress p
    LEFT JOIN sluice.lane_progress l
        ON l.topic = p.topic AND l.partition = p.partition AND l.epoch = p.epoch
    GROUP BY p.topic, p.partition, p.watermark
    """,
)


def read_reach(session: Session) -> dict[Place, int]:
    """Returns partition → highest offset with an outcome. Records below it may lack an outcome."""
    return {(topic, partition): offset for topic, partition, offset in session.run(READ_REACH)}


READ_EPOCHS = Statement("read_epochs", "SELECT entity, epoch FROM sluice.entities")


def read_epochs(session: Session) -> dict[str, int]:
    """Returns entity type → epoch."""
    return dict(session.run(READ_EPOCHS))


READ_HALTED = Statement("read_halted", "SELECT queue FROM sluice.queues WHERE halted_reason IS NOT NULL")


def read_halted(session: Session) -> frozenset[str]:
    """Returns the halted queues."""
    return frozenset(queue for (queue,) in session.run(READ_HALTED))


RAISE_WATERMARKS = Statement(
    "raise_watermarks",
    """
    UPDATE sluice.partition_progress p SET watermark = d.watermark
    FROM unnest($1, $2, $3, $4) AS d (topic, partition, epoch, watermark)
    WHERE p.topic = d.topic AND p.partition = d.partition
      -- Ignores another epoch, and a bridge that has lost the partition and has not detected it yet.
      AND p.epoch = d.epoch AND p.watermark < d.watermark
    """,
    ("text[]", "int[]", "int[]", "bigint[]"),
)


def raise_watermarks(session: Session, watermarks: Mapping[Place, tuple[int, int]]) -> None:
    """Raises watermarks of partitions, given as (epoch, watermark), only in that epoch. Idempotent."""
    if not watermarks:
        return
    # All bridges use one order, so that they cannot deadlock.
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
    """Returns (shards, epoch) of an entity type, None if it has no row."""
    rows = session.run(READ_ROUTING, entity)
    return (int(rows[0][0]), int(rows[0][1])) if rows else None


INSERT_ENTITY = Statement(
    "insert_entity",
    "INSERT INTO sluice.entities (entity, shards) VALUES ($1, $2) ON CONFLICT (entity) DO NOTHING",
    ("text", "int"),
)
# Serializes registrations and re-routings of an entity type: no worker would serve a row of an old epoch.
LOCK_ENTITY = Statement(
    "lock_entity", "SELECT shards FROM sluice.entities WHERE entity = $1 FOR UPDATE", ("text",)
)
# The same names as in `sluice.tasks.events.routing.queue_name`; a test compares them.
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
    "INSERT INTO sluice.topics (topic, topic_id, entity) VALUES ($1, $2, $3) ON CONFLICT (topic) DO NOTHING",
    ("text", "text", "text"),
)
INSERT_PARTITIONS = Statement(
    "insert_partitions",
    """
    INSERT INTO sluice.partition_progress (topic, partition, epoch, watermark)
    SELECT t.topic, d.partition, e.epoch, d.watermark
    FROM unnest($2, $3) AS d (partition, watermark)
    JOIN sluice.topics t ON t.topic = $1
    JOIN sluice.entities e ON e.entity = t.entity
    ON CONFLICT (topic, partition) DO NOTHING
    """,
    ("text", "int[]", "bigint[]"),
)


def register_entity(session: Session, entity: str, shards: int) -> int:
    """Inserts missing rows of an entity type and its queues. Returns the current shard count.

    `shards` applies only if the entity type is new. Idempotent.
    """
    with session.transaction():
        return _register_entity(session, entity, shards)


def register_topic(session: Session, start: TopicStart) -> None:
    """Inserts missing rows of a topic, its entity type, queues and partitions. Existing rows are kept.

    `starts` apply only to a topic without a row. A partition that is added later starts at 0, so that no
    record is skipped. If several bridges run this at the same time, the first one decides.
    """
    with session.transaction():
        _register_entity(session, start.entity, start.shards)
        first_seen = session.count(INSERT_TOPIC, start.topic, start.topic_id, start.entity) == 1
        numbers: Sequence[int] = sorted(start.starts)
        session.run(
            INSERT_PARTITIONS,
            start.topic,
            bare_array(numbers),
            bare_array(start.starts[number] if first_seen else 0 for number in numbers),
        )


def _register_entity(session: Session, entity: str, shards: int) -> int:
    session.run(INSERT_ENTITY, entity, shards)
    (found,) = session.run(LOCK_ENTITY, entity)
    session.run(INSERT_QUEUES, entity)
    return int(found[0])


# Session locks, which end with the process: after a kill and restart, a bridge takes its own group membership
# in Kafka again, not that of another bridge.
TRY_INSTANCE = Statement(
    "try_instance",
    "SELECT pg_try_advisory_lock(hashtext('sluice bridge ' || $1), $2)",
    ("text", "int"),
)


def try_instance(session: Session, group: str, instance: int) -> bool:
    """Takes the number if it is free. Returns True if this session holds it. Idempotent."""
    ((held,),) = session.run(TRY_INSTANCE, group, instance)
    return bool(held)


def claim_instance(session: Session, group: str) -> int:
    """Takes the lowest number that no other session of the group holds. The end of the session frees it."""
    instance = 0
    while not try_instance(session, group, instance):
        instance += 1
    return instance


READ_QUEUE_NAMES = Statement("read_queue_names", "SELECT queue FROM sluice.queues ORDER BY queue")


def read_queue_names(session: Session) -> list[str]:
    """Returns all queues of all entity types."""
    return [queue for (queue,) in session.run(READ_QUEUE_NAMES)]
