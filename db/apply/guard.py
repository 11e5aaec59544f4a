"""The delivery guard's rows: the lock of a queue, and the offsets and counters of the queue's lanes."""

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from sluice.db.apply.handler_deaths import HandlerDeaths
from sluice.db.connection import Session, Statement
from sluice.db.newest_lanes import walk_live_lanes
from sluice.db.schema import OUTCOMES
from sluice.runtime.place import EventPlace

COUNTERS = (*OUTCOMES, "call_conflict", "without_id")


class QueueRow(NamedTuple):
    """The queue as read under its lock. `halted_reason` is None if it is not halted.

    `failure_window`: the results of the last 200 events that were tried.
    """

    halted_reason: str | None
    failure_window: str
    accepted_deaths: int


class QueueFailures(NamedTuple):
    """Consecutive failed transactions of a queue that begin at the same record.

    `batch_limit`: the most events of the next transaction; None: no limit.
    """

    topic: str
    partition: int
    offset: int
    failures: int
    batch_limit: int | None


class Lanes(NamedTuple):
    """The state of the queue's entity type, and the applied offsets of its lanes in this epoch.

    If the queue is unknown, `epoch` is None and the other fields are empty.
    """

    epoch: int | None
    shards: int
    topic_ids: Mapping[str, str]
    """The topics of the entity type, with their ids."""
    applied: Mapping[tuple[str, int], int]
    failures: QueueFailures | None = None
    """None if the newest transaction of the queue was committed, and the next one has no limit."""
    retry_is_due: bool = False
    """True if an event of the queue that was set aside is due for a retry."""
    deaths: Mapping[EventPlace, HandlerDeaths] = MappingProxyType({})
    """The events in whose handlers processes ended, with the number of these ends."""
    newest_erasure: int = 0
    """The id of the newest erasure of any entity; 0 if there is no erasure."""
    has_parked: bool = False
    """True if entities of the type are parked."""


class LaneStep(NamedTuple):
    """A lane's new offset in this transaction, and the number of records per outcome.

    `before`: the applied offset that was read under the queue's lock; None if the lane has no row.
    """

    topic: str
    partition: int
    before: int | None
    applied_offset: int
    counts: Mapping[str, int]


LOCK_QUEUE = Statement("lock_queue", "SELECT FROM sluice.queues WHERE queue = $1 FOR UPDATE", ("text",))


def lock_queue(session: Session, queue: str) -> bool:
    """Takes THE lock of a queue until the transaction ends. Returns False if the queue has no row."""
    return session.count(LOCK_QUEUE, queue) == 1


# A separate statement reads the lanes, because the snapshot of the locking statement is older than the lock.
READ_LANES = Statement(
    "read_lanes",
    f"""
    WITH RECURSIVE {walk_live_lanes("q.queue = $1")}
    SELECT e.epoch, e.shards,
           (SELECT jsonb_object_agg(t.topic, t.topic_id) FROM sluice.topics t WHERE t.entity = e.entity),
           (SELECT jsonb_build_array(f.topic, f.partition, f."offset", f.failures, f.batch_limit)
            FROM sluice.queue_failures f WHERE f.queue = $1),
           EXISTS (SELECT FROM sluice.retries r WHERE r.queue = $1 AND r.retry_at <= clock_timestamp()),
           (SELECT jsonb_agg(jsonb_build_array(d.topic, d.topic_id, d.partition, d."offset",
                                               d.deaths, d.timed_out, d.how))
            FROM sluice.handler_deaths d WHERE d.queue = $1),
           (SELECT coalesce(max(x.id), 0)::bigint FROM sluice.erasures x),
           EXISTS (SELECT FROM sluice.parked_entities k WHERE k.entity = e.entity),
           q.halted_reason,
           coalesce((SELECT w.failure_window FROM sluice.failure_windows w WHERE w.queue = $1
                     ORDER BY w.step DESC LIMIT 1), ''),
           q.accepted_deaths,
           (SELECT jsonb_agg(jsonb_build_array((l.lane).topic, (l.lane).partition, (l.lane).applied_offset))
            FROM l WHERE (l.lane).topic IS NOT NULL)
    FROM sluice.queues q
    JOIN sluice.entities e ON e.entity = q.entity
    WHERE q.queue = $1
    """,
    ("text",),
)


def read_lanes(session: Session, queue: str) -> Lanes:
    """Returns the current epoch and its lanes. Lanes of older epochs are only used for their counters."""
    return _read(session, queue)[1]


def lock_lanes(session: Session, queue: str) -> tuple[QueueRow | None, Lanes]:
    """Does the work of `lock_queue` and of `read_lanes` in one round trip."""
    session.defer_statement(LOCK_QUEUE, queue)
    return _read(session, queue)


def _read(session: Session, queue: str) -> tuple[QueueRow | None, Lanes]:
    rows = session.run(READ_LANES, queue)
    if not rows:
        return None, Lanes(None, 0, {}, {})
    epoch, shards, topic_ids, failures, retry_is_due, deaths, newest_erasure, has_parked = rows[0][:8]
    applied = {(topic, partition): offset for topic, partition, offset in rows[0][11] or ()}
    lanes = Lanes(
        epoch,
        shards,
        topic_ids or {},
        applied,
        failures and QueueFailures(*failures),
        retry_is_due,
        {EventPlace(*row[:4]): HandlerDeaths(*row[4:]) for row in deaths or ()},
        newest_erasure,
        has_parked,
    )
    return QueueRow(*rows[0][8:11]), lanes


NOTE_FAILURES = Statement(
    "note_failures",
    """
    INSERT INTO sluice.queue_failures (queue, topic, partition, "offset", failures, batch_limit, error)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (queue) DO UPDATE SET topic = $2, partition = $3, "offset" = $4, failures = $5,
        batch_limit = $6, error = coalesce(nullif($7, ''), queue_failures.error), failed_at = now()
    """,
    ("text", "text", "int", "bigint", "int", "int", "text"),
)


def note_failures(session: Session, queue: str, failures: QueueFailures, error: str = "") -> None:
    """Writes the failures of a queue. If `error` is empty, the stored error is kept. Idempotent."""
    session.run(NOTE_FAILURES, queue, *failures, error)


CLEAR_FAILURES = Statement("clear_failures", "DELETE FROM sluice.queue_failures WHERE queue = $1", ("text",))


def clear_failures(session: Session, queue: str) -> None:
    """Removes the failures of a queue. Idempotent."""
    session.run(CLEAR_FAILURES, queue)


_COUNTER_LIST = ", ".join(COUNTERS)
_COUNTER_VALUES = ", ".join(f"${7 + i}" for i in range(len(COUNTERS)))
_COUNTER_SUMS = ", ".join(f"{name} = {name} + ${7 + i}" for i, name in enumerate(COUNTERS))
_LANE_TYPES = ("text", "int", "text", "int", "bigint", "bigint", *["bigint"] * len(COUNTERS))

# The row is found by its complete key: a shorter key would also find its old versions. One statement per
# lane, because a join of several lanes would read all versions.
ADVANCE_LANE = Statement(
    "advance_lane",
    f"""
    UPDATE sluice.lane_offsets SET applied_offset = $6, {_COUNTER_SUMS}
    WHERE queue = $1 AND epoch = $2 AND topic = $3 AND partition = $4 AND applied_offset = $5
    """,
    _LANE_TYPES,
)
BEGIN_LANE = Statement(
    "begin_lane",
    f"""
    INSERT INTO sluice.lane_offsets (queue, epoch, topic, partition, applied_offset, {_COUNTER_LIST})
    VALUES ($1, $2, $3, $4, $6, {_COUNTER_VALUES})
    """,
    _LANE_TYPES,
)


def advance_lanes(session: Session, queue: str, epoch: int, steps: Sequence[LaneStep]) -> None:
    """Writes the offsets of lanes and adds to their counters, before the next statement. Not idempotent.

    Requires the queue's lock.
    """
    for step in steps:
        session.defer_statement(
            BEGIN_LANE if step.before is None else ADVANCE_LANE,
            queue,
            epoch,
            step.topic,
            step.partition,
            step.before,
            step.applied_offset,
            *(step.counts.get(name, 0) for name in COUNTERS),
        )


HALT_QUEUE = Statement(
    "halt_queue",
    """
    UPDATE sluice.queues SET halted_reason = $2, halted_at = now()
    WHERE queue = $1 AND halted_reason IS DISTINCT FROM $2
    """,
    ("text", "text"),
)


def halt_queue(session: Session, queue: str, reason: str) -> bool:
    """Marks a queue as halted. Returns True if its state changed. Idempotent."""
    return session.count(HALT_QUEUE, queue, reason) == 1


CONTINUE_QUEUE = Statement(
    "continue_queue",
    "UPDATE sluice.queues SET halted_reason = NULL, halted_at = NULL, accepted_deaths = $2 WHERE queue = $1",
    ("text", "int"),
)
# As with a lane, the row is found by its complete key.
WRITE_WINDOW = Statement(
    "write_failure_window",
    """
    WITH newest AS MATERIALIZED (
        SELECT step FROM sluice.failure_windows WHERE queue = $1 ORDER BY step DESC LIMIT 1
    ), written AS (
        UPDATE sluice.failure_windows SET step = step + 1, failure_window = $2
        WHERE queue = $1 AND step = (SELECT step FROM newest)
    )
    INSERT INTO sluice.failure_windows (queue, step, failure_window)
    SELECT $1, 1, $2 WHERE NOT EXISTS (SELECT FROM newest)
    """,
    ("text", "text"),
)


def update_queue(session: Session, queue: str, before: QueueRow, after: QueueRow) -> None:
    """Writes what a batch changed, before the next statement. Requires the queue's lock. Clears a halt."""
    if before.failure_window != after.failure_window:
        session.defer_statement(WRITE_WINDOW, queue, after.failure_window)
    if before._replace(failure_window="") != after._replace(failure_window=""):
        session.defer_statement(CONTINUE_QUEUE, queue, after.accepted_deaths)


def move_counts(session: Session, topic: str, partition: int, before: str, after: str, count: int) -> None:
    """Moves `count` records of a partition from the counter of one outcome to that of another.

    Each lane loses as much in one counter as it gains in the other. Lanes of the newest epoch are changed
    first.
    """
    if before not in OUTCOMES or after not in OUTCOMES:
        raise ValueError(f"not outcomes: {before}, {after}")
    session.run(_move_counts(before, after), topic, partition, count)


@cache
def _move_counts(before: str, after: str) -> Statement:
    return Statement(
        f"move_counts_{before}_{after}",
        f"""
        WITH counted AS (
            SELECT queue, epoch, {before} AS n,
                   sum({before}) OVER (ORDER BY epoch DESC, queue) - {before} AS earlier
            FROM sluice.lane_offsets WHERE topic = $1 AND partition = $2 AND {before} > 0
        ), moved AS (
            SELECT queue, epoch, least(n, $3 - earlier) AS n FROM counted WHERE earlier < $3
        )
        UPDATE sluice.lane_offsets l SET {before} = l.{before} - m.n, {after} = l.{after} + m.n
        FROM moved m
        WHERE l.topic = $1 AND l.partition = $2 AND l.queue = m.queue AND l.epoch = m.epoch
        """,
        ("text", "int", "bigint"),
    )
