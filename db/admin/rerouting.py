"""Re-routes an entity type: changes its epoch and shards, and moves the rows that depend on them.

Every change requires the locks of all queues of the entity type. Therefore a running batch ends before the
change, and a later batch reads the new epoch.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.delivery.dedup_modes import continue_modes, restart_modes
from sluice.db.values import bare_array, text_array

# Long, because each of several batches may hold the lock of its queue for some seconds.
PATIENCE = "SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '60s'"


class TopicRouting(NamedTuple):
    """A topic as stored in Postgres."""

    topic_id: str
    entity: str


READ_TOPIC_ROUTING = Statement(
    "read_topic_routing", "SELECT topic_id, entity FROM sluice.topics WHERE topic = $1", ("text",)
)


def read_topic_routing(session: Session, topic: str) -> TopicRouting | None:
    """Returns the routing of a topic; None if no bridge has ever read the topic."""
    rows = session.run(READ_TOPIC_ROUTING, topic)
    return TopicRouting(*rows[0]) if rows else None


READ_TOPICS_OF = Statement(
    "read_topics_of", "SELECT topic FROM sluice.topics WHERE entity = $1 ORDER BY topic", ("text",)
)


def read_topics_of(session: Session, entity: str) -> list[str]:
    """Returns the topics of an entity type that a bridge has read at any time."""
    return [topic for (topic,) in session.run(READ_TOPICS_OF, entity)]


READ_WATERMARKS_OF = Statement(
    "read_watermarks_of",
    "SELECT partition, watermark FROM sluice.partition_watermarks WHERE topic = $1 ORDER BY partition",
    ("text",),
)


def read_watermarks_of(session: Session, topic: str) -> dict[int, int]:
    """Returns partition → watermark."""
    return dict(session.run(READ_WATERMARKS_OF, topic))


# This lock is taken before the locks of queues. A process that waits for this lock holds no queue's lock.
LOCK_ROUTING = Statement(
    "lock_routing", "SELECT shards FROM sluice.entities WHERE entity = $1 FOR UPDATE", ("text",)
)
# Every process that takes several of these locks takes them in this order, to avoid deadlocks.
LOCK_QUEUES = Statement(
    "lock_queues",
    "SELECT queue FROM sluice.queues WHERE entity = $1 ORDER BY queue FOR UPDATE",
    ("text",),
)


def lock_routing(session: Session, entity: str) -> int | None:
    """Takes all locks of an entity type. Waits until running batches end. Returns its shard count.

    Returns None if the entity type is unknown. Raises LockNotAvailable if a batch holds the lock of its queue
    for too long.
    """
    session.command(PATIENCE)
    rows = session.run(LOCK_ROUTING, entity)
    session.run(LOCK_QUEUES, entity)
    return int(rows[0][0]) if rows else None


RAISE_EPOCH = Statement(
    "raise_epoch",
    "UPDATE sluice.entities SET epoch = epoch + 1, shards = $2 WHERE entity = $1 RETURNING epoch",
    ("text", "int"),
)
RAISE_PARTITION_EPOCHS = Statement(
    "raise_partition_epochs",
    """
    UPDATE sluice.partition_watermarks p SET epoch = $2
    FROM sluice.topics t WHERE t.topic = p.topic AND t.entity = $1
    """,
    ("text", "int"),
)


def raise_epoch(session: Session, entity: str, shards: int) -> int:
    """Restarts all lanes from their watermarks. Returns the new epoch. Requires all locks. Not idempotent."""
    ((epoch,),) = session.run(RAISE_EPOCH, entity, shards)
    session.run(RAISE_PARTITION_EPOCHS, entity, epoch)
    return int(epoch)


# If the shards stay the same, the applied offset of a lane stays valid. The offset is copied, because
# otherwise the lane's records would be sent and counted again.
CARRY_LANES = Statement(
    "carry_lanes",
    """
    INSERT INTO sluice.lane_offsets (topic, partition, queue, epoch, applied_offset)
    SELECT l.topic, l.partition, l.queue, $3, l.applied_offset
    FROM sluice.lane_offsets l JOIN sluice.topics t ON t.topic = l.topic
    WHERE t.entity = $1 AND l.epoch = $3 - 1 AND (l.topic <> $2 OR l.partition = ANY ($4))
    """,
    ("text", "text", "int", "int[]"),
)


def carry_lanes(
    session: Session, entity: str, *, accepted: str, epoch: int, partitions: Iterable[int] = ()
) -> int:
    """Copies lanes to the new epoch. Returns their number.

    These are the lanes of all other topics, and of these partitions of the accepted topic. Requires all
    locks.
    """
    return session.count(CARRY_LANES, entity, accepted, epoch, bare_array(partitions))


SET_TOPIC_ID = Statement(
    "set_topic_id", "UPDATE sluice.topics SET topic_id = $2 WHERE topic = $1", ("text", "text")
)
DROP_PARTITIONS = Statement(
    "drop_partitions", "DELETE FROM sluice.partition_watermarks WHERE topic = $1", ("text",)
)
INSERT_WATERMARKS = Statement(
    "insert_watermarks",
    """
    INSERT INTO sluice.partition_watermarks (topic, partition, epoch, watermark)
    SELECT $1, d.partition, $2, d.watermark FROM unnest($3, $4) AS d (partition, watermark)
    """,
    ("text", "int", "int[]", "bigint[]"),
)


def restart_topic(
    session: Session,
    topic: str,
    topic_id: str,
    *,
    epoch: int,
    watermarks: Mapping[int, int],
    modes_from: Mapping[int, int] | None = None,
) -> None:
    """Sets the id of the topic. Replaces its partitions by those in `watermarks`, the start offsets.

    `modes_from`: the current mode applies from these offsets on, and the earlier records keep their modes. By
    default the current mode applies to all records. Requires all locks.
    """
    numbers = sorted(watermarks)
    session.run(SET_TOPIC_ID, topic, topic_id)
    session.run(DROP_PARTITIONS, topic)
    session.run(
        INSERT_WATERMARKS, topic, epoch, bare_array(numbers), bare_array(watermarks[n] for n in numbers)
    )
    if modes_from is None:
        restart_modes(session, topic)
    else:
        continue_modes(session, topic, modes_from)


class Unsettled(NamedTuple):
    """Unsettled work of an entity type. `lanes`: the number of lanes with unsettled records."""

    lanes: int
    outgoing: int
    """Waiting outgoing events.

    Counted up to MOST_COUNTED, because to count a long outbox would exceed the statement time-out.
    """
    refused: int
    """Outgoing events that the broker refuses and that need an operator."""
    halted: int
    """Halted queues."""


READ_UNSETTLED = Statement(
    "read_unsettled",
    """
    WITH own AS (SELECT queue, halted_reason FROM sluice.queues WHERE entity = $1)
    SELECT
        (SELECT count(*)
         FROM own
         JOIN sluice.lane_offsets l ON l.queue = own.queue
         JOIN sluice.entities e ON e.entity = $1 AND e.epoch = l.epoch
         LEFT JOIN sluice.partition_watermarks p ON p.topic = l.topic AND p.partition = l.partition
         -- Includes the watermark itself, which is the lowest offset without an outcome.
         WHERE l.applied_offset >= coalesce(p.watermark, 0)),
        (SELECT count(*) FROM (
            SELECT FROM sluice.outbox_events o WHERE o.queue IN (SELECT queue FROM own) LIMIT $2
        ) waiting),
        (SELECT count(*) FROM sluice.outbox_refusals r WHERE r.queue IN (SELECT queue FROM own)),
        (SELECT count(*) FROM own WHERE halted_reason IS NOT NULL)
    """,
    ("text", "int"),
)
MOST_COUNTED = 100_000


def read_unsettled(session: Session, entity: str) -> Unsettled:
    """Returns the current unsettled work. The result is reliable only if the caller holds all locks."""
    return Unsettled(*session.run(READ_UNSETTLED, entity, MOST_COUNTED)[0])


INSERT_QUEUE_NAMES = Statement(
    "insert_queue_names",
    """
    INSERT INTO sluice.queues (queue, entity) SELECT d.queue, $1 FROM unnest($2) AS d (queue)
    ON CONFLICT (queue) DO NOTHING
    """,
    ("text", "text[]"),
)


def insert_queues(session: Session, entity: str, queues: Sequence[str]) -> None:
    """Inserts rows for these queues. Existing rows are kept. Idempotent."""
    session.run(INSERT_QUEUE_NAMES, entity, text_array(queues))


READ_PARKED_OF = Statement(
    "read_parked_of",
    "SELECT key, queue FROM sluice.parked_entities WHERE entity = $1 ORDER BY key",
    ("text",),
)


def read_parked_of(session: Session, entity: str) -> dict[str, str]:
    """Returns the key of each parked entity → the queue of the entity."""
    return dict(session.run(READ_PARKED_OF, entity))


MOVE_PARKED = Statement(
    "move_parked",
    """
    UPDATE sluice.parked_entities p SET queue = d.queue FROM unnest($2, $3) AS d (key, queue)
    WHERE p.entity = $1 AND p.key = d.key
    """,
    ("text", "text[]", "text[]"),
)


MOVE_RETRIES = Statement(
    "move_retries",
    """
    UPDATE sluice.retries r SET queue = d.queue FROM unnest($2, $3) AS d (key, queue)
    WHERE r.entity = $1 AND r.key = d.key
    """,
    ("text", "text[]", "text[]"),
)


def move_parked(session: Session, entity: str, queues: Mapping[str, str]) -> None:
    """Stores the new queues of parked entities and their retries. Requires all locks. Idempotent."""
    if queues:
        keys, names = text_array(queues), text_array(queues.values())
        session.run(MOVE_PARKED, entity, keys, names)
        session.run(MOVE_RETRIES, entity, keys, names)
